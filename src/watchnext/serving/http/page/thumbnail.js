// Pictures. A video without one gets art of its own: colours by its first tag (creator or id where it has none), shapes by its id.

import { el, svg } from "./elements.js";

const WIDTH = 320, HEIGHT = 180;

function hash(text) { // FNV-1a
  let value = 0x811c9dc5;
  for (const letter of text) value = Math.imul(value ^ letter.codePointAt(0), 0x01000193) >>> 0;
  return value >>> 0;
}

function generator(seed) { // mulberry32
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value ^= value + Math.imul(value ^ (value >>> 7), 61 | value);
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

const several = (number, make) => Array.from({ length: number }, (_, index) => make(index));
const circle = (cx, cy, r, rest) => svg("circle", { cx, cy, r, ...rest });
const path = (d, rest) => svg("path", { d, ...rest });

function wave(random, level, height) {
  const [a, b] = [level - height * random(), level + height * random()];
  return `M0 ${HEIGHT}V${level}C${WIDTH * 0.3} ${a} ${WIDTH * (0.4 + 0.2 * random())} ${b} ${WIDTH} ${level - height * (random() - 0.5)}V${HEIGHT}Z`;
}

const MOTIFS = [
  function hills(random, ink) {
    return [circle(60 + 200 * random(), 40 + 30 * random(), 18 + 16 * random(), { fill: ink(60, 88), opacity: 0.9 }),
      ...several(3, (i) => path(wave(random, 90 + 28 * i, 60), { fill: ink(15 * i, 40 - 11 * i), opacity: 0.9 }))];
  },
  function orbits(random, ink) {
    const [x, y] = [90 + 140 * random(), 60 + 60 * random()];
    return several(6, (i) => circle(x, y, 16 + 24 * i, { fill: i ? "none" : ink(50, 85), stroke: ink(20 * i, 75), "stroke-width": 1.5 + 5 * random() * (i % 2), opacity: 0.85 }))
      .concat(several(3, (i) => circle(x + (40 + 24 * i) * Math.cos(6 * random()), y + (40 + 24 * i) * Math.sin(6 * random()), 5 + 5 * random(), { fill: ink(180, 80) })));
  },
  function equaliser(random, ink) {
    return several(16, (i) => {
      const height = 24 + 120 * random() ** 1.3;
      return svg("rect", { x: 6 + 19.6 * i, y: (HEIGHT - height) / 2, width: 12, height, rx: 6, fill: ink(5 * i, 70), opacity: 0.55 + 0.4 * random() });
    });
  },
  function arcs(random, ink) {
    return several(40, (i) => {
      const [x, y, turn] = [40 * (i % 8), 36 * Math.floor(i / 8), Math.floor(4 * random())];
      return path("M0 0H40A40 40 0 0 1 0 40Z", { fill: ink(60 * Math.floor(3 * random()), 45 + 30 * random()), opacity: 0.25 + 0.6 * random(),
        transform: `translate(${x} ${y}) rotate(${90 * turn} 20 18)` });
    });
  },
  function shards(random, ink) {
    return several(11, (i) => {
      const corners = several(3, () => `${(WIDTH * (1.4 * random() - 0.2)).toFixed(0)} ${(HEIGHT * (1.4 * random() - 0.2)).toFixed(0)}`);
      return path(`M${corners.join("L")}Z`, { fill: ink(14 * i - 60, 35 + 40 * random()), opacity: 0.35 });
    });
  },
  function halftone(random, ink) {
    const [u, v, phase] = [0.012 + 0.02 * random(), 0.015 + 0.02 * random(), 6 * random()];
    return several(112, (i) => {
      const [x, y] = [10 + 20 * (i % 16), 13 + 26 * Math.floor(i / 16)];
      return circle(x, y, (2 + 8 * Math.abs(Math.sin(u * x + v * y + phase))).toFixed(1), { fill: ink(40, 78), opacity: 0.75 });
    });
  },
  function ribbons(random, ink) {
    return several(6, (i) => path(`M-20 ${30 * i + 40 * random()}C90 ${200 * random()} 220 ${200 * random() - 20} 340 ${30 * i + 40 * random()}`,
      { fill: "none", stroke: ink(24 * i, 62 + 4 * i), "stroke-width": 8 + 16 * random(), "stroke-linecap": "round", opacity: 0.7 }));
  },
  function skyline(random, ink) {
    const moon = circle(50 + 220 * random(), 36 + 20 * random(), 15, { fill: ink(60, 92) });
    return [moon, ...several(2, (row) => several(12, (i) => {
      const height = (row ? 30 : 60) + 70 * random();
      return svg("rect", { x: 28 * i - 6 * row, y: HEIGHT - height, width: 24, height, fill: ink(row * 20, row ? 16 : 30), opacity: 0.9 });
    })).flat()];
  },
];

function art(id, { tags, creator_id } = {}) {
  const random = generator(hash(`video ${id}`));
  const hue = hash(`hue ${tags?.[0] ?? creator_id ?? id}`) % 360;
  const ink = (shift, light) => `oklch(${(0.2 + 0.0078 * light).toFixed(3)} ${light > 80 ? 0.07 : 0.13} ${Math.round(hue + shift)})`;
  const shapes = MOTIFS[Math.floor(MOTIFS.length * random())](random, ink);
  return [svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "xMidYMid slice", "aria-hidden": "true" }, ...shapes),
    { "--from": `oklch(.6 .17 ${hue})`, "--to": `oklch(.33 .12 ${hue + 50})` }];
}

export function thumbnail(id, video, ...badges) {
  const [picture, vars] = art(id, video ?? {});
  const node = el("div", { cls: "thumb", vars }, picture, ...badges);
  if (video?.thumbnail_url?.startsWith("https://")) {
    const image = el("img", { src: video.thumbnail_url, alt: "", loading: "lazy", decoding: "async", referrerPolicy: "no-referrer" });
    image.addEventListener("error", () => image.remove()); // the art behind it shows
    picture.after(image);
  }
  return node;
}
