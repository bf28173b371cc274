"use strict";

// --- tables: a heading's button sorts by its column, numbers as numbers, cells without one last ---
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const given = new Map([...body.rows].map((row, i) => [row, i]));
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const numeric = [...body.rows].some((row) => row.cells[column].dataset.value !== undefined);
      const before = head.getAttribute("aria-sort");
      const first = numeric ? "descending" : "ascending";
      const order = before === "none" ? first : before === "ascending" ? "descending" : "ascending";
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => {
        const cell = row.cells[column];
        if (!numeric) return cell.textContent;
        return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
      };
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === null || y === null) return (x === null) - (y === null) || given.get(a) - given.get(b);
        return sign * (numeric ? x - y : x.localeCompare(y)) || given.get(a) - given.get(b);
      };
      body.append(...[...body.rows].sort(compare));
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? order : "none"));
    });
  });
}

// --- charts: what shows one method stands out where a pointer rests on it ---
for (const svg of document.querySelectorAll("figure svg")) {
  const marks = [...svg.querySelectorAll("[data-of]")];
  const pick = (name) => {
    svg.classList.toggle("picked", name !== null);
    marks.forEach((mark) => mark.classList.toggle("on", mark.dataset.of === name));
  };
  svg.addEventListener("pointerover", (event) => pick(event.target.closest("[data-of]")?.dataset.of ?? null));
  svg.addEventListener("pointerleave", () => pick(null));
}

// --- close-ups ---
const unpack = (runs) => {
  const labels = [];
  for (let i = 0; i < runs.length; i += 2) for (let n = runs[i + 1]; n > 0; n--) labels.push(runs[i]);
  return labels;
};

// The lines between pixels of different labels, as an SVG path.
const boundary = (labels, side) => {
  let path = "";
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const label = labels[y * side + x];
      if (x && label !== labels[y * side + x - 1]) path += `M${x} ${y}v1`;
      if (y && label !== labels[(y - 1) * side + x]) path += `M${x} ${y}h1`;
    }
  }
  return path;
};

const wrongPixels = (labels, truth, ignore) =>
  labels.flatMap((label, i) => (label !== truth[i] && truth[i] !== ignore ? [i] : []));

const squares = (pixels, side) => pixels.map((i) => `M${i % side} ${Math.floor(i / side)}h1v1h-1z`).join("");

const startViewer = (viewer) => {
  const find = (selector) => viewer.querySelector(selector);
  const designs = [...document.querySelectorAll(".viewer-data")].map((script) => JSON.parse(script.textContent));
  const state = { design: 0, closeup: 0, method: 0, back: 0 };
  const hidden = new Set(["wrong"]);

  const data = () => designs[state.design];
  const closeup = () => data().closeups[state.closeup];
  const reference = () => Math.max(0, data().methods.findIndex((method) => method.name === data().against));

  // Paths of every method of a close-up, made when it is first shown.
  const drawn = new Map();
  const paths = () => {
    const c = closeup();
    if (!drawn.has(c)) {
      const truth = unpack(c.truth);
      const outline = boundary(truth, c.side);
      drawn.set(c, c.maps.map((map) => {
        const labels = unpack(map);
        const wrong = wrongPixels(labels, truth, data().ignore);
        return {
          count: wrong.length,
          svg: `<path class="wrong" d="${squares(wrong, c.side)}"/><path class="true" d="${outline}"/>` +
            `<path class="predicted" d="${boundary(labels, c.side)}"/>`,
        };
      }));
    }
    return drawn.get(c);
  };

  const button = (text, action) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(text);
    made.addEventListener("click", action);
    return made;
  };

  const press = (buttons, chosen) =>
    [...buttons].forEach((one, i) => one.setAttribute("aria-pressed", String(i === chosen)));

  const showMethod = (method) => {
    const count = data().methods.length;
    state.method = (method + count) % count;
    const { svg, count: wrong } = paths()[state.method];
    const c = closeup();
    find(".stage svg").innerHTML = svg;
    const name = data().methods[state.method].shown;
    find(".method").textContent = `${name} · ${state.method + 1} of ${count}`;
    find(".stage img").alt = `Close-up of ${c.name} with the boundary by ${name}`;
    const pixels = c.side * c.side;
    find(".count").textContent = `${c.name}, ${c.side} × ${c.side} pixels: ${wrong} wrong by ${name} ` +
      `(${(100 * wrong / pixels).toFixed(1)} %)${c.far ? "; some method errs far from the boundary here" : ""}.`;
    press(find(".names").children, state.method);
    [...find(".all").children].forEach((one, i) => one.setAttribute("aria-current", String(i === state.method)));
  };

  const showCloseup = (number) => {
    if (!data().closeups[number]) return;
    state.closeup = number;
    const c = closeup();
    find(".stage img").src = c.image;
    find(".stage svg").setAttribute("viewBox", `0 0 ${c.side} ${c.side}`);
    find(".where img").src = c.whole;
    find(".where img").alt = `${c.name}, whole`;
    const [left, top, width, height] = c.at;
    Object.assign(find(".where span").style,
      { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
    press(find(".thumbs").children, number);
    find(".all").replaceChildren(...data().methods.map((method, i) => {
      const figure = document.createElement("figure");
      const { svg, count } = paths()[i];
      figure.innerHTML = `<div class="mini"><img alt="" src="${c.image}"><svg viewBox="0 0 ${c.side} ${c.side}" ` +
        `aria-hidden="true">${svg}</svg></div><figcaption></figcaption>`;
      figure.querySelector("figcaption").textContent = `${method.shown}: ${count} wrong`;
      figure.addEventListener("click", () => showMethod(i));
      return figure;
    }));
    showMethod(state.method);
  };

  const showDesign = (number) => {
    Object.assign(state, { design: number, method: 0, back: 0 });
    find(".names").replaceChildren(...data().methods.map((method, i) => button(method.shown, () => showMethod(i))));
    find(".thumbs").replaceChildren(...data().closeups.map((c, i) => {
      const made = button("", () => showCloseup(i));
      made.innerHTML = `<img alt="" src="${c.image}">`;
      made.setAttribute("aria-label", `Close-up ${i + 1}: ${c.name}`);
      return made;
    }));
    find(".against").textContent = data().against;
    find(".last").textContent = data().closeups.length;
    press(document.querySelectorAll(".tabs button"), number);
    showCloseup(0);
  };

  const showLayers = () => ["true", "predicted", "wrong"].forEach((layer) => {
    viewer.classList.toggle(`hide-${layer}`, hidden.has(layer));
    find(`.layers input[value=${layer}]`).checked = !hidden.has(layer);
  });
  const toggle = (layer) => {
    if (!hidden.delete(layer)) hidden.add(layer);
    showLayers();
  };

  // To the method that all are held against, and back to the one seen before.
  const blink = () => {
    if (state.method === reference()) return showMethod(state.back);
    state.back = state.method;
    showMethod(reference());
  };

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, .scroll")) return;
    const actions = {
      ArrowRight: () => showMethod(state.method + 1),
      ArrowLeft: () => showMethod(state.method - 1),
      b: blink,
      e: () => toggle("wrong"),
    };
    const digit = /^[1-9]$/.test(event.key) && Number(event.key) <= data().closeups.length;
    const action = digit ? () => showCloseup(Number(event.key) - 1) : actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };

  // Keys work without a click as long as the viewer is in sight.
  let inSight = false;
  new IntersectionObserver((entries) => { inSight = entries[entries.length - 1].isIntersecting; }).observe(find(".views"));
  document.addEventListener("keydown", (event) => {
    if (inSight || viewer.contains(event.target)) onKey(event);
  });
  find(".previous").addEventListener("click", () => showMethod(state.method - 1));
  find(".next").addEventListener("click", () => showMethod(state.method + 1));
  find(".stage").addEventListener("click", () => showMethod(state.method + 1));
  viewer.querySelectorAll(".layers input").forEach((box) => box.addEventListener("change", () => toggle(box.value)));
  document.querySelectorAll(".tabs button").forEach((tab, i) => tab.addEventListener("click", () => showDesign(i)));
  showLayers();
  showDesign(0);
};
document.querySelectorAll(".viewer").forEach(startViewer);

// --- print: what is folded is printed too ---
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((one) => {
  one.open = true;
  addEventListener("afterprint", () => { one.open = false; }, { once: true });
}));
