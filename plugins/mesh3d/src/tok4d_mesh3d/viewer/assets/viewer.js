// Viewers of a page: unpacking, the orbiting camera, mouse, touch and keys. Drawn when something changes, not all the time.
let renderer = null;
const viewers = new Map();
const scratch = { depths: new Float32Array(0), keys: new Uint16Array(0), starts: new Uint32Array(65537) };

class Viewer {
  constructor(figure) {
    this.figure = figure;
    this.canvas = figure.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.settings = JSON.parse(figure.dataset.settings);
    this.spin = this.queued = false;
    this.fingers = new Map();
    this.reset();
    this.unpack(figure.querySelector("script").textContent);
    this.listen();
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
  }

  reset() {
    const { yaw, pitch, radius, target } = this.settings, degree = Math.PI / 180;
    this.camera = { yaw: yaw * degree, pitch: pitch * degree, radius, target: [...target] };
    this.redraw();
  }

  unpack(text) {
    const { count, origin, extent } = this.settings, raw = atob(text);
    if (raw.length !== 16 * count) throw new Error("its data is not complete");
    const words = new Uint32Array(Math.ceil(count / WIDTH) * WIDTH * 4), bytes = new Uint8Array(words.buffer);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    this.words = words;
    this.order = new Uint32Array(count);
    this.points = new Float32Array(3 * count);
    for (let i = 0; i < count; i++) {
      const first = words[4 * i], steps = [first & 65535, first >>> 16, words[4 * i + 1] & 65535];
      for (let k = 0; k < 3; k++) this.points[3 * i + k] = origin[k] + (steps[k] / 65535) * extent[k];
    }
    if (scratch.keys.length < count) {
      scratch.depths = new Float32Array(count);
      scratch.keys = new Uint16Array(count);
    }
  }

  // World to camera, row by row, and the focal length in pixels.
  pose(width, height) {
    const { yaw, pitch, radius, target } = this.camera;
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    const rotation = [-sy, cy, 0, cy * sp, sy * sp, -cp, -cy * cp, -sy * cp, -sp];
    const row = (k) => rotation[k] * target[0] + rotation[k + 1] * target[1] + rotation[k + 2] * target[2];
    const focal = (0.5 * Math.min(width, height)) / Math.tan((this.settings.fov * Math.PI) / 360);
    return { rotation, shift: [-row(0), -row(3), radius - row(6)], focal };
  }

  redraw() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame((now) => { this.queued = false; this.draw(now); });
  }

  draw(now) {
    if (!this.visible || !renderer.ready) return;
    const sharpness = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.min(2048, Math.round(this.canvas.clientWidth * sharpness));
    const height = Math.min(2048, Math.round(this.canvas.clientHeight * sharpness));
    if (!width || !height) return;
    if (this.spin) {
      this.camera.yaw += 0.0006 * Math.min(now - (this.last ?? now), 100);
      this.last = now;
      this.redraw();
    }
    if (this.canvas.width !== width || this.canvas.height !== height) {
      [this.canvas.width, this.canvas.height] = [width, height];
    }
    if (this.generation !== renderer.generation) {
      this.texture = renderer.upload(this.words);
      this.generation = renderer.generation;
    }
    const pose = this.pose(width, height), direction = pose.rotation.slice(6).join();
    if (direction !== this.sorted) {
      farthestFirst(this.points, pose.rotation, this.order, scratch);
      this.sorted = direction;
    }
    const background = getComputedStyle(this.canvas).backgroundColor.match(/[\d.]+/g).slice(0, 3).map((c) => c / 255);
    renderer.draw(this.texture, this.settings, pose, this.order, background, this.context, width, height);
    this.figure.classList.add("live");
  }

  // Off screen, the memory on the graphics card is given back.
  show(visible) {
    this.visible = visible;
    this.last = undefined;
    if (visible) this.redraw();
    else if (this.texture && renderer.generation === this.generation) {
      renderer.gl.deleteTexture(this.texture);
      this.generation = undefined;
    }
  }

  turn(right, up) {
    this.camera.yaw -= right;
    this.camera.pitch = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, this.camera.pitch + up));
    this.redraw();
  }

  zoom(factor) {
    const { radius } = this.settings;
    this.camera.radius = Math.max(0.02 * radius, Math.min(20 * radius, this.camera.radius * factor));
    this.redraw();
  }

  // By pixels of the page; the target follows the finger.
  move(right, down) {
    const { rotation, focal } = this.pose(this.canvas.clientWidth, this.canvas.clientHeight);
    const unit = this.camera.radius / focal;
    for (let k = 0; k < 3; k++) this.camera.target[k] -= unit * (right * rotation[k] + down * rotation[3 + k]);
    this.redraw();
  }

  act(name) {
    if (name === "reset") this.reset();
    if (name === "spin") {
      this.spin = !this.spin;
      this.last = undefined;
      this.figure.querySelector("[data-action=spin]").setAttribute("aria-pressed", String(this.spin));
    }
    if (name === "background") {
      const shade = getComputedStyle(this.canvas).backgroundColor.match(/[\d.]+/g).slice(0, 3);
      this.figure.dataset.background = shade.reduce((sum, c) => sum + Number(c), 0) > 382 ? "dark" : "light";
    }
    this.redraw();
  }

  listen() {
    const canvas = this.canvas, fingers = this.fingers;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    }
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("wheel", (event) => {
      const scrolls = document.documentElement.scrollHeight > window.innerHeight + 1;
      if (scrolls && document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      this.zoom(Math.exp(0.0012 * event.deltaY * (event.deltaMode === 1 ? 30 : 1)));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.press(event));
    this.figure.querySelector(".bar").addEventListener("click", (event) => this.act(event.target.dataset.action));
  }

  drag(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const [right, down] = [event.clientX - before[0], event.clientY - before[1]];
    const other = [...this.fingers].find(([id]) => id !== event.pointerId);
    if (other) {
      const apart = (x, y) => Math.hypot(x - other[1][0], y - other[1][1]) || 1;
      this.zoom(apart(...before) / apart(event.clientX, event.clientY));
      this.move(right / 2, down / 2);
    } else if (event.shiftKey || event.buttons & 6) this.move(right, down);
    else this.turn(0.008 * right, 0.008 * down);
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  press(event) {
    const deeds = {
      ArrowLeft: () => this.turn(-0.1, 0), ArrowRight: () => this.turn(0.1, 0),
      ArrowUp: () => this.turn(0, -0.1), ArrowDown: () => this.turn(0, 0.1),
      "+": () => this.zoom(0.9), "=": () => this.zoom(0.9), "-": () => this.zoom(1 / 0.9),
      " ": () => this.act("spin"), 0: () => this.reset(), Home: () => this.reset(), b: () => this.act("background"),
    };
    if (!deeds[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    deeds[event.key]();
  }
}

// A viewer that cannot start leaves its still picture and says why.
function open(figure, visible) {
  if (!viewers.has(figure)) {
    if (!visible) return;
    try {
      renderer = renderer || new Renderer(() => viewers.forEach((viewer) => viewer && viewer.redraw()));
      viewers.set(figure, new Viewer(figure));
    } catch (error) {
      viewers.set(figure, null);
      figure.querySelector(".note").textContent = `(a still picture: ${error.message})`;
    }
  }
  const viewer = viewers.get(figure);
  if (viewer) viewer.show(visible);
}

const watch = new IntersectionObserver(
  (entries) => entries.forEach((entry) => open(entry.target, entry.isIntersecting)), { rootMargin: "200px" });

const startAll = () => document.querySelectorAll(".tok4d-splats").forEach((figure) => watch.observe(figure));
if (!window.tok4dSplats) {
  window.tok4dSplats = { start: (figure) => watch.observe(figure), viewer: (figure) => viewers.get(figure) };
  const restyle = () => viewers.forEach((viewer) => viewer && viewer.redraw());
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
}
