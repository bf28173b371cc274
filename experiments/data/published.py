"""What published masks mean: names of the classes, in the authors' order, and the values that are to be ignored."""

from collections.abc import Mapping

from experiments.data.labels import Meaning


def _named(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _numbered(text: str, first: int = 0, ignored: tuple[int, ...] = ()) -> Meaning:
    """Classes whose values count up from `first`."""
    names = _named(text)
    return Meaning(names, {first + label: label for label in range(len(names))}, frozenset(ignored))


def _chosen(values: Mapping[str, int], ignored: frozenset[int]) -> Meaning:
    return Meaning(tuple(values), {value: label for label, value in enumerate(values.values())}, ignored)


# The eleven classes of SegNet (Badrinarayanan et al. 2017, arXiv:1511.00561); the twelfth is void.
CAMVID = _numbered("sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist", ignored=(11,))

ISBI2012 = Meaning(("membrane", "cell"), {0: 0, 255: 1}, one=255)

# Cordts et al. 2016: of the ids 0 to 33 these are evaluated. 255 is the license plate, whose id is -1.
_CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
CITYSCAPES = _chosen(_CITYSCAPES, (frozenset(range(34)) | {255}) - frozenset(_CITYSCAPES.values()))

VOC = _numbered(
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor",
    ignored=(255,),
)

# Parkhi et al. 2012: 3 is the pet's border, which is not classified.
OXFORD_PET = _chosen({"background": 2, "pet": 1}, frozenset({3}))

# Zhou et al. 2017: the first word of each of the benchmark's 150 entries; 0 is what is none of them.
ADE20K = _numbered(
    """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
    door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug,
    field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column,
    signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path,
    stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
    toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
    arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television,
    airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van,
    ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
    tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake,
    dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen,
    plate, monitor, bulletin board, shower, radiator, glass, clock, flag
    """,
    first=1,
    ignored=(0,),
)
