/* Symbols of classes: 7 colours and 8 shapes, coprime, so that 56 classes have one of their own; classes that
   share a colour are filled and hollow by turns. */
const N_COLOURS = 7;
const SHAPES = [circle, square, triangle, diamond, cross, wedge, plus, star];

function polygon(context, x, y, radius, corners, turn, inner = 1) {
  for (let corner = 0; corner < corners; corner += 1) {
    const angle = turn + (2 * Math.PI * corner) / corners;
    const reach = corner % 2 ? radius * inner : radius;
    context.lineTo(x + reach * Math.cos(angle), y + reach * Math.sin(angle));
  }
  context.closePath();
}

function circle(context, x, y, radius) { context.arc(x, y, radius, 0, 2 * Math.PI); }
function square(context, x, y, radius) { polygon(context, x, y, 1.25 * radius, 4, Math.PI / 4); }
function triangle(context, x, y, radius) { polygon(context, x, y, 1.3 * radius, 3, -Math.PI / 2); }
function wedge(context, x, y, radius) { polygon(context, x, y, 1.3 * radius, 3, Math.PI / 2); }
function diamond(context, x, y, radius) { polygon(context, x, y, 1.35 * radius, 4, 0); }
function star(context, x, y, radius) { polygon(context, x, y, 1.5 * radius, 10, -Math.PI / 2, 0.45); }
function plus(context, x, y, radius) { beams(context, x, y, 1.3 * radius, 0); }
function cross(context, x, y, radius) { beams(context, x, y, 1.35 * radius, Math.PI / 4); }

function beams(context, x, y, radius, turn) {
  const half = 0.36 * radius;
  const outline = [
    [half, half], [half, radius], [-half, radius], [-half, half], [-radius, half], [-radius, -half],
    [-half, -half], [-half, -radius], [half, -radius], [half, -half], [radius, -half], [radius, half],
  ];
  const cos = Math.cos(turn);
  const sin = Math.sin(turn);
  for (const [right, down] of outline) context.lineTo(x + cos * right - sin * down, y + sin * right + cos * down);
  context.closePath();
}

function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function drawSymbol(context, symbol, x, y, radius) {
  context.beginPath();
  SHAPES[symbol.shape](context, x, y, radius);
  // A rim in the colour of the ground keeps symbols apart that lie on each other.
  context.lineJoin = "round";
  context.lineWidth = (symbol.hollow ? 0.75 : 0.25) * radius;
  context.strokeStyle = cssColour("ground");
  context.stroke();
  context.fillStyle = cssColour(symbol.hollow ? "ground" : symbol.colour);
  context.fill();
  if (!symbol.hollow) return;
  context.lineWidth = 0.45 * radius;
  context.strokeStyle = cssColour(symbol.colour);
  context.stroke();
}

function classSymbol(number) {
  const hollow = Math.floor(number / N_COLOURS) % 2 === 1;
  return { colour: `class-${number % N_COLOURS}`, shape: number % SHAPES.length, hollow };
}

const VERDICT_SYMBOLS = {
  right: { colour: "right", shape: 0, hollow: false },
  wrong: { colour: "wrong", shape: 4, hollow: false },
  none: { colour: "untold", shape: 0, hollow: false },
};

/* The map on its canvas: it draws clips and finds the one at a place. Places run from 0 to 1. */
class ClipMap {
  constructor(canvas, x, y) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.x = x;
    this.y = y;
    this.symbols = []; // one per clip
    this.order = x.map((_, clip) => clip); // what is drawn last lies on top
    this.shown = new Uint8Array(x.length).fill(1);
    this.bright = new Uint8Array(x.length).fill(1);
    this.chosen = -1;
    this.zoom = 1;
    this.centre = { x: 0.5, y: 0.5 };
    this.sprites = new Map();
    this.waiting = false;
    this.measure();
    // At once, before it is painted: a frame later the old picture would be seen stretched.
    new ResizeObserver(() => {
      this.measure();
      this.draw();
    }).observe(canvas);
  }

  measure() {
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.side = Math.max(1, Math.min(this.width, this.height) - 36);
  }

  get radius() {
    const many = Math.min(6, Math.max(2.2, (0.2 * this.side) / Math.sqrt(this.x.length)));
    return Math.min(9, many * Math.sqrt(this.zoom));
  }

  /* Place of a clip on the canvas, in CSS pixels. */
  screen(clip) {
    const scale = this.side * this.zoom;
    return {
      x: this.width / 2 + (this.x[clip] - this.centre.x) * scale,
      y: this.height / 2 + (this.y[clip] - this.centre.y) * scale,
    };
  }

  /* The clip to be seen that costs least, of equal ones the uppermost; what costs Infinity is no choice. */
  cheapest(cost) {
    let best = -1;
    let least = Number.MAX_VALUE;
    for (const clip of this.order) {
      const own = this.shown[clip] && this.bright[clip] ? cost(clip) : Infinity;
      if (own <= least) [best, least] = [clip, own];
    }
    return best;
  }

  clipAt(x, y) {
    const reach = Math.max(10, 1.5 * this.radius) ** 2;
    return this.cheapest((clip) => {
      const place = this.screen(clip);
      const distance = (place.x - x) ** 2 + (place.y - y) ** 2;
      return distance <= reach ? distance : Infinity;
    });
  }

  /* Nearest clip in a direction; what lies off it counts double. */
  neighbour(clip, right, down) {
    return this.cheapest((other) => {
      const across = this.x[other] - this.x[clip];
      const along = this.y[other] - this.y[clip];
      const ahead = across * right + along * down;
      const aside = Math.abs(across * down) + Math.abs(along * right);
      return ahead <= 0 || aside > 1.5 * ahead ? Infinity : ahead + 2 * aside;
    });
  }

  middleClip() {
    return this.cheapest((clip) => (this.x[clip] - this.centre.x) ** 2 + (this.y[clip] - this.centre.y) ** 2);
  }

  /* Zoom around a point of the canvas that stays where it is. */
  zoomBy(factor, x = this.width / 2, y = this.height / 2) {
    const zoom = Math.min(60, Math.max(1, this.zoom * factor));
    const fromMiddle = { x: x - this.width / 2, y: y - this.height / 2 };
    const change = (1 / this.zoom - 1 / zoom) / this.side;
    this.zoom = zoom;
    this.moveTo(this.centre.x + fromMiddle.x * change, this.centre.y + fromMiddle.y * change);
  }

  moveBy(right, down) {
    const scale = this.side * this.zoom;
    this.moveTo(this.centre.x - right / scale, this.centre.y - down / scale);
  }

  moveTo(x, y) {
    const clamp = (value) => Math.min(1, Math.max(0, value));
    this.centre = this.zoom === 1 ? { x: 0.5, y: 0.5 } : { x: clamp(x), y: clamp(y) };
    // One finger scrolls the page until there is something to move.
    this.canvas.style.touchAction = this.zoom === 1 ? "pan-y" : "none";
    this.redraw();
  }

  whole() {
    this.zoom = 1;
    this.moveTo(0.5, 0.5);
  }

  /* Move the map, if need be, until a clip is on it. */
  reveal(clip) {
    const place = this.screen(clip);
    const inside = place.x > 12 && place.y > 12 && place.x < this.width - 12
      && place.y < this.height - 12;
    if (!inside) this.moveTo(this.x[clip], this.y[clip]);
  }

  forgetColours() {
    this.sprites.clear();
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.clearRect(0, 0, width, height);
    this.freshenSprites(ratio);
    for (const bright of [0, 1]) {
      this.context.globalAlpha = bright ? 1 : 0.12;
      for (const clip of this.order) {
        if (this.shown[clip] && this.bright[clip] === bright) this.drawClip(clip, ratio);
      }
    }
    this.context.globalAlpha = 1;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.chosen >= 0) this.drawRing(this.chosen);
  }

  /* On whole pixels, where a browser copies instead of filtering. */
  drawClip(clip, ratio) {
    const sprite = this.sprite(this.symbols[clip], ratio);
    const place = this.screen(clip);
    const left = Math.round(place.x * ratio) - sprite.width / 2;
    const top = Math.round(place.y * ratio) - sprite.height / 2;
    const { width, height } = this.canvas;
    if (left > width || top > height || left < -sprite.width || top < -sprite.height) return;
    this.context.drawImage(sprite, left, top);
  }

  drawRing(clip) {
    const place = this.screen(clip);
    for (const [colour, width] of [["ground", 5], ["ink", 2]]) {
      this.context.beginPath();
      this.context.arc(place.x, place.y, this.radius + 5, 0, 2 * Math.PI);
      this.context.strokeStyle = cssColour(colour);
      this.context.lineWidth = width;
      this.context.stroke();
    }
  }

  /* A symbol is drawn once and copied thousands of times, as long as its size stays. */
  freshenSprites(ratio) {
    const size = `${this.radius} ${ratio}`;
    if (size !== this.spriteSize) this.sprites.clear();
    this.spriteSize = size;
  }

  sprite(symbol, ratio) {
    if (!this.sprites.has(symbol)) {
      const sprite = document.createElement("canvas");
      sprite.width = sprite.height = 2 * Math.ceil(2 * this.radius * ratio);
      drawSymbol(sprite.getContext("2d"), symbol, sprite.width / 2, sprite.height / 2, this.radius * ratio);
      this.sprites.set(symbol, sprite);
    }
    return this.sprites.get(symbol);
  }
}
