"""The small networks in which only the upsampler changes."""

from typing import Literal

from experiments.models.fpn import FPN
from experiments.models.unet import UNet

Model = Literal["unet", "fpn"]
MODELS: dict[Model, type[UNet] | type[FPN]] = {"unet": UNet, "fpn": FPN}
