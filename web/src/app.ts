// The page: state, tools, panels, and the stream of messages from the server.

import * as api from "./api";
import { Painter, type Layer } from "./gl";
import { clip, isEmpty, levelFor, type Rect } from "./grid";
import { KEYS, actionOf } from "./keys";
import { planeWord, sectionToOpen } from "./planes";
import { Pointers, type Point } from "./pointers";
import { AGAIN_MS, Saving } from "./saving";
import { Stroke } from "./stroke";
import { Tiles } from "./tiles";
import { fitScale, fitted, toImage, toScreen, visible, zoomed, type Size, type View } from "./view";

const el = <T extends Element = HTMLElement>(id: string): T => document.getElementById(id) as unknown as T;
const input = (id: string): HTMLInputElement => el<HTMLInputElement>(id);
const choice = (id: string): HTMLSelectElement => el<HTMLSelectElement>(id);

const TOOLS = ["brush", "eraser", "fill", "outline", "pick", "cut", "rectangle"] as const;
type Tool = (typeof TOOLS)[number];
const COLORS: [number, number, number][] = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
const MOST_FAILED = 3; // images that cannot be opened, each with its reason
const BRUSH_SCALE = 0.35; // below, labels are shown at coarser levels, and the brush rests

const canvas = el<HTMLCanvasElement>("canvas");
const stage = el("stage");

class Page {
  private painter = new Painter(canvas);
  private tiles: Tiles | null = null;
  private kept: Tiles[] = []; // of planes that are not shown, with strokes that are not saved
  private info: api.ImageInfo | null = null;
  private folder: api.Folder | null = null;
  private view: View = { y: 0, x: 0, scale: 1 };
  private views = new Map<string, View>();
  private t = 0;
  private z = 0;
  private tool: Tool = "brush";
  private background = false; // the brush paints background
  private current = 0; // the object that is painted on
  private selected = 0;
  private reserved: number[] = []; // ids for new objects
  private merging = false;
  private hidden = false;
  private outlinesOnly = false;
  private layers: Layer[] = [];
  private shown: number[] = []; // channels
  private stroke: Stroke | null = null;
  private outline: [number, number][] = [];
  private drag: Point | null = null;
  private rect: Rect | null = null;
  private pointer: Point | null = null;
  private saving = new Saving(() => this.showSaved(), (text) => this.say(text));
  private lost = false; // the server did not answer
  private outdated = false; // the page is to be loaded again, once all is saved
  private stale = new Map<string, [number, number, number]>();
  private predicted: { labels: WebGLTexture; sure: WebGLTexture; data: api.Prediction } | null = null;
  private losses: number[] = [];
  private drawn = false;
  private chosen = false; // a person has chosen a model to predict with
  private told = 0;

  // ---- beginning

  async begin(): Promise<void> {
    this.buildTools();
    this.bind();
    new ResizeObserver(() => this.resize()).observe(stage);
    this.resize();
    await this.loadFolder();
    const hash = location.hash.slice(1);
    const ids = this.folder!.images.map((one) => one.id);
    await this.openFirst(ids.includes(hash) ? [hash, ...ids.filter((id) => id !== hash)] : ids, this.passedOver());
    this.listen();
  }

  private async loadFolder(): Promise<void> {
    const { live } = await this.renewFolder();
    choice("kind").value = live.kind;
    el("class-row").hidden = live.kind === "objects";
    if (this.passedOver().length > 0) this.say(this.passedOver().join("\n"));
    this.enable();
  }

  private async renewFolder(): Promise<api.Folder> {
    this.folder = await api.folder();
    this.listImages();
    this.listModels(this.folder.models);
    this.showLive(this.folder.live);
    if (this.folder.job) this.showJob(this.folder.job);
    return this.folder;
  }

  private passedOver(): string[] {
    const names = this.folder!.passed_over;
    return names.length > 0 ? [`Passed over: ${names.join("; ")}`] : [];
  }

  /** What changes an image or its view is off while none is open. */
  private enable(): void {
    const ids = "#undo, #redo, #accept-view, #complete, #fit, #one, #contrast";
    for (const one of document.querySelectorAll<HTMLButtonElement>(`#tools button, ${ids}`)) one.disabled = !this.info;
  }

  private listModels(models: string[]): void {
    for (const [id, names] of [
      ["start", ["a model that fits", "nothing", ...models]],
      ["model", models],
    ] as const) {
      const list = choice(id);
      // The newest model is used to predict until a person chooses one.
      const before = id === "start" || this.chosen ? list.value : names[0]!;
      list.replaceChildren(...names.map((name) => new Option(name)));
      list.value = names.includes(before) ? before : names[0]!;
    }
  }

  private listImages(): void {
    const list = choice("images");
    const value = this.info?.id ?? list.value;
    list.replaceChildren(
      ...this.folder!.images.map((one) => {
        const mark = one.annotated ? ` (${one.objects})` : "";
        return new Option(one.name + mark, one.id);
      }),
    );
    if (value) list.value = value;
  }

  private count(id: string, objects: number): void {
    const entry = this.folder!.images.find((one) => one.id === id);
    if (!entry) return;
    entry.objects = objects;
    entry.annotated = true;
    const option = [...choice("images").options].find((one) => one.value === id);
    if (option) option.text = `${entry.name} (${objects})`;
  }

  /** Open the first of these images that can be opened; say which cannot, below what was told before. */
  private async openFirst(ids: string[], told: string[] = [], t = 0, z: number | null = null): Promise<void> {
    await this.saving.idle();
    const failed: string[] = [];
    let info: api.ImageInfo | null = null;
    let numbers: number[] = []; // known before it is shown, so that a stroke on what is shown has one
    for (const id of ids) {
      try {
        info = await api.image(id);
        numbers = (await api.reserve(id)).ids;
        break;
      } catch (error) {
        failed.push((error as Error).message);
        if (error instanceof TypeError || error instanceof api.OtherKey) break; // it does not answer for any image
      }
    }
    const lines = [...told, ...failed.slice(0, MOST_FAILED)];
    if (failed.length > MOST_FAILED) lines.push(`${failed.length - MOST_FAILED} more images cannot be opened.`);
    if (info && !info.written) lines.push("This image is large: its mask is written when you download it or train.");
    if (lines.length > 0) this.say(lines.join("\n"));
    if (info) this.show(info, numbers, t, z);
    else choice("images").value = this.info?.id ?? "";
  }

  private show(info: api.ImageInfo, numbers: number[], t: number, z: number | null): void {
    const { id } = info;
    if (this.info) this.views.set(this.info.id, this.view);
    this.info = info;
    if (info.objects !== null) this.count(id, info.objects);
    this.t = t;
    this.z = sectionToOpen(info.sections, z);
    this.current = this.selected = 0;
    this.pointer = null; // it was a place of the image before
    el("where").textContent = "";
    this.reserved = numbers;
    history.replaceState(null, "", `#${id}`);
    choice("images").value = id;
    el<HTMLAnchorElement>("download").href = `api/mask/${id}`;
    this.view = this.views.get(id) ?? this.firstView(info);
    this.shown = info.channels === 4 ? [0, 1, 2] : Array.from({ length: Math.min(3, info.channels) }, (_, n) => n);
    this.layers = info.windows.map((window, n) => ({
      window: [...window],
      color: info.channels === 1 ? [1, 1, 1] : COLORS[n % 3]!,
    }));
    el("complete").textContent = `This ${planeWord(info)} is complete`;
    this.buildChannels();
    this.enable();
    this.openPlane();
  }

  private firstView(info: api.ImageInfo): View {
    const whole = fitted(info, this.size());
    return info.levels > 3 ? { y: info.height / 2, x: info.width / 2, scale: 1 } : whole;
  }

  private openPlane(): void {
    const info = this.info!;
    this.endStroke();
    this.putAway();
    this.dropPrediction();
    this.outline = [];
    this.rect = null;
    const plane = { image: info.id, t: this.t, z: this.z };
    const kept = this.kept.find(({ plane: one }) => one.image === plane.image && one.t === plane.t && one.z === plane.z);
    this.kept = this.kept.filter((one) => one !== kept);
    this.tiles = kept ?? new Tiles(plane, info, this.painter, () => this.draw(), (text) => this.say(text));
    kept?.wake().catch((error: unknown) => this.say((error as Error).message));
    this.buildPlanes();
    this.look();
    void this.loadPrediction();
    this.draw();
  }

  /** Leave the plane that is shown; its tiles stay while strokes on them are not saved. */
  private putAway(): void {
    if (this.tiles) this.kept.push(this.tiles);
    this.tiles = null;
    this.kept = this.kept.filter((one) => {
      if (one.strokes.size > 0) one.rest();
      else one.close();
      return one.strokes.size > 0;
    });
  }

  private async reserve(): Promise<void> {
    const id = this.info!.id;
    const { ids } = await api.reserve(id);
    if (this.info?.id === id) this.reserved.push(...ids);
  }

  // ---- drawing

  private size(): Size {
    return { height: canvas.height, width: canvas.width };
  }

  private get density(): number {
    return canvas.width / Math.max(1, canvas.clientWidth);
  }

  private resize(): void {
    const ratio = Math.min(2, devicePixelRatio || 1);
    canvas.width = Math.max(1, Math.round(stage.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(stage.clientHeight * ratio));
    this.paintScreen(); // at once: a canvas of a new size is empty
    this.look();
  }

  private draw(): void {
    if (this.drawn) return;
    this.drawn = true;
    requestAnimationFrame(() => {
      this.drawn = false;
      this.paintScreen();
    });
  }

  private get labelLevel(): number {
    return this.view.scale >= BRUSH_SCALE ? 0 : levelFor(this.view.scale, this.info!.levels);
  }

  private paintScreen(): void {
    const { info, tiles, view, painter } = this;
    if (!info || !tiles) return;
    const canvasSize = this.size();
    const rect = clip(visible(view, canvasSize), info.height, info.width);
    const level = levelFor(view.scale, info.levels);
    tiles.want(rect, level, this.shown, this.labelLevel);
    painter.begin();
    const layers = this.shown.map((n) => this.layers[n]!);
    if (layers.length === 1) layers[0] = { ...layers[0]!, color: [1, 1, 1] };
    tiles.drawImage(rect, level, info.levels, this.shown, layers, input("invert").checked, view, canvasSize);
    const wash = this.outlinesOnly ? 0 : Number(input("wash").value);
    const look = { wash, outline: 1, selected: this.selected || -2 };
    if (this.predicted && input("show-prediction").checked) {
      const { labels, sure, data } = this.predicted;
      const sides = { height: data.rect.y1 - data.rect.y0, width: data.rect.x1 - data.rect.x0 };
      const doubt = input("show-doubt").checked ? 0.8 : 0;
      painter.drawLabels(labels, sure, { ...look, selected: -2 }, doubt, data.rect, sides, view, canvasSize);
    }
    if (!this.hidden) tiles.drawLabels(rect, this.labelLevel, look, view, canvasSize);
    this.showPlace();
    this.drawShapes();
  }

  private drawShapes(): void {
    const svg = el<SVGSVGElement>("drawing");
    const place = ([y, x]: [number, number]): string => {
      const [sy, sx] = toScreen(this.view, this.size(), y, x);
      return `${(sx / this.density).toFixed(1)},${(sy / this.density).toFixed(1)}`;
    };
    const points = [...this.outline];
    if (points.length > 0 && this.pointer && this.tool === "outline") points.push([this.pointer.y, this.pointer.x]);
    if (this.rect) {
      const { y0, x0, y1, x1 } = this.rect;
      points.push([y0, x0], [y0, x1], [y1, x1], [y1, x0], [y0, x0]);
    }
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", points.map(place).join(" "));
    svg.replaceChildren(...(points.length > 0 ? [line] : []));
    const cursor = el("cursor");
    const brushes = this.tool === "brush" || this.tool === "eraser";
    cursor.style.display = this.pointer && brushes && !this.pointer.touch ? "block" : "none";
    if (this.pointer) {
      const [sy, sx] = toScreen(this.view, this.size(), this.pointer.y, this.pointer.x);
      cursor.style.left = `${sx / this.density}px`;
      cursor.style.top = `${sy / this.density}px`;
      const side = Math.max(4, (2 * this.radius * this.view.scale) / this.density);
      cursor.style.width = cursor.style.height = `${side}px`;
    }
  }

  private say(text: string): void {
    el("message").textContent = text;
    const number = ++this.told;
    setTimeout(() => {
      if (this.told === number) el("message").textContent = "";
    }, 9000);
  }

  // ---- saving

  private showSaved(): void {
    const { unsaved, failing } = this.saving;
    const done = this.lost ? "no connection" : "saved";
    el("saved").textContent = unsaved === 0 ? done : failing ? "not saved" : "saving";
    el("saved").classList.toggle("failing", failing);
    if (unsaved > 0) return;
    if (this.outdated) location.reload();
    else this.renewStale().catch((error: unknown) => this.say((error as Error).message));
  }

  private loadAgain(): void {
    this.outdated = true;
    void this.saving.again();
  }

  private async renewStale(): Promise<void> {
    if (this.saving.unsaved > 0 || this.stroke || this.stale.size === 0) return;
    const tiles = [...this.stale.values()];
    this.stale.clear();
    await this.tiles?.renew(tiles);
  }

  private later(tiles: [number, number, number][]): void {
    for (const one of tiles) {
      const key = `${one[0]}/${one[1]}`;
      const known = this.stale.get(key);
      if (!known || known[2] < one[2]) this.stale.set(key, one);
    }
    void this.renewStale();
  }

  /** The stroke that is drawn ends here, and is saved. */
  private endStroke(): void {
    const stroke = this.stroke;
    this.stroke = null;
    if (stroke?.finish()) this.saving.add(() => stroke.save((text) => this.say(text)));
  }

  private request(body: object, after?: () => void): void {
    const tiles = this.tiles!;
    this.saving.add(async () => {
      const done = await api.edit(tiles.plane, body);
      await tiles.renew(done.tiles).catch((error: unknown) => this.say((error as Error).message)); // the edit is done
      after?.();
      if (done.tiles.length === 0) this.say("Nothing has changed.");
    });
  }

  private step(way: "undo" | "redo"): void {
    const tiles = this.tiles!;
    this.saving.add(async () => {
      const done = await api.step(tiles.plane.image, way);
      if (done.name === null) return this.say(way === "undo" ? "There is nothing to undo." : "There is nothing to redo.");
      if (done.t !== this.t || done.z !== this.z) {
        this.t = done.t!;
        this.z = done.z!;
        this.openPlane();
      } else await tiles.renew(done.tiles);
      this.say(`${way === "undo" ? "Undone" : "Done again"}: ${done.name}`);
    }, false);
  }

  // ---- tools

  private get radius(): number {
    return Number(input("radius").value);
  }

  private setRadius(value: number): void {
    input("radius").value = String(Math.max(0.5, Math.min(60, value)));
    el("radius-text").textContent = input("radius").value;
    this.draw();
  }

  private setTool(tool: Tool): void {
    this.tool = tool;
    this.outline = [];
    this.rect = null;
    this.merging = false;
    for (const one of TOOLS) el(`tool-${one}`).setAttribute("aria-pressed", String(one === tool));
    this.showHint();
    this.draw();
  }

  private showHint(): void {
    const hints: Record<Tool, string> = {
      brush: this.background ? "Painting background. X paints objects again." : "",
      eraser: "Erased pixels are not annotated: nothing is learned from them.",
      fill: "Click into an enclosed area.",
      outline: "Drag around an object, or click its corners and press Enter.",
      pick: "Click an object to select it.",
      cut: this.selected ? "Drag a line across the selected object." : "Drag a line across an object.",
      rectangle: this.rect ? "G accepts the prediction inside; Enter makes what is not annotated background." : "Drag a rectangle.",
    };
    el("hint").textContent = this.merging ? "Click the object to join to the selected one." : hints[this.tool];
    el("tool-swap").setAttribute("aria-pressed", String(this.background));
  }

  /** The label of a point as it is shown, -1 where nothing is annotated; undefined while it is not loaded. */
  private labelAt(y: number, x: number): number | undefined {
    return this.tiles!.labelAt(y, x, this.labelLevel);
  }

  private valueFor(start: number, erase: boolean): { value: number; exempt: number } {
    if (erase) return { value: -1, exempt: start };
    if (this.background) return { value: 0, exempt: start };
    if (choice("kind").value === "classes") return { value: Number(input("class-value").value), exempt: start };
    if (start > 0) this.current = start;
    else if (input("auto-new").checked || this.current === 0) this.newObject();
    return { value: this.current, exempt: start };
  }

  private newObject(): void {
    const next = this.reserved.shift();
    if (next === undefined) return this.say("Wait for the server a moment.");
    this.current = this.selected = next;
    if (this.reserved.length < 4) void this.reserve();
  }

  private down(at: Point): void {
    if (!this.info || !this.tiles) return;
    canvas.focus();
    el("message").textContent = "";
    const label = this.labelAt(at.y, at.x);
    const free = this.tool === "outline" || this.tool === "cut" || this.tool === "rectangle";
    if (label === undefined && (at.ctrl || this.merging || !free))
      return this.say("The labels of this place are not loaded yet: try again in a moment.");
    const start = label ?? -1;
    if (this.merging && this.selected) {
      this.merging = false;
      this.showHint();
      if (start > 0 && start !== this.selected) this.request({ kind: "merge", object: start, into: this.selected });
      return;
    }
    if (at.ctrl || this.tool === "pick") return this.pick(start);
    switch (this.tool) {
      case "brush":
      case "eraser": {
        if (this.labelLevel > 0) return this.say("Zoom in to paint; outlines work at any zoom.");
        const erase = this.tool === "eraser" || at.alt || at.eraser;
        const { value, exempt } = this.valueFor(start, erase);
        if (value === 0 && !erase && !this.background) return; // no id yet
        if (value > 0) this.selected = value;
        const brush = { value, exempt, protect: input("protect").checked, radius: this.radius };
        this.stroke = new Stroke(this.tiles, this.info, brush, erase ? "eraser" : this.background ? "background" : "brush");
        this.stroke.to(at.y, at.x, this.pressed(at));
        return;
      }
      case "fill": {
        // What an object encloses becomes part of that object; select another one to fill with it.
        const inside = !at.alt && !this.background && choice("kind").value === "objects" && this.selected > 0;
        const value = inside ? this.selected : this.valueFor(start, at.alt).value;
        return this.request({ kind: "fill", y: Math.floor(at.y), x: Math.floor(at.x), value });
      }
      case "outline":
        this.drag = at;
        this.outline.push([at.y, at.x]);
        return this.draw();
      case "cut":
        this.drag = at;
        this.outline = [[at.y, at.x]];
        return;
      case "rectangle":
        this.drag = at;
        this.rect = null;
    }
  }

  private pressed(at: Point): number {
    return at.pen ? this.radius * (0.4 + 1.2 * at.pressure) : this.radius;
  }

  private move(at: Point): void {
    this.pointer = at;
    if (this.stroke) this.stroke.to(at.y, at.x, this.pressed(at));
    else if (this.drag && (this.tool === "outline" || this.tool === "cut")) {
      const far = Math.hypot(at.y - this.drag.y, at.x - this.drag.x) * this.view.scale;
      if (far > 4 * this.density) this.outline.push([at.y, at.x]);
    } else if (this.drag && this.tool === "rectangle")
      this.rect = {
        y0: Math.floor(Math.min(at.y, this.drag.y)),
        x0: Math.floor(Math.min(at.x, this.drag.x)),
        y1: Math.ceil(Math.max(at.y, this.drag.y)),
        x1: Math.ceil(Math.max(at.x, this.drag.x)),
      };
    this.showPlace();
    this.drawShapes(); // a stroke draws the tiles itself
  }

  /** Say what is under the pointer. */
  private showPlace(): void {
    if (!this.tiles || !this.pointer) return;
    const { y, x } = this.pointer;
    const label = this.labelAt(y, x);
    const percent = Math.round((this.view.scale / this.density) * 100);
    let what = "not annotated";
    if (label === undefined) what = "not loaded yet";
    else if (label >= 0) what = label > 0 ? `object ${label}` : "background";
    el("where").textContent = `y ${Math.floor(y)}  x ${Math.floor(x)}  ${what}  ${percent} %`;
  }

  private up(at: Point): void {
    if (this.stroke) {
      this.endStroke();
      void this.renewStale();
    } else if (this.drag && this.tool === "outline" && this.outline.length > 3) {
      const far = Math.hypot(at.y - this.drag.y, at.x - this.drag.x);
      const span = Math.max(...this.outline.map(([y, x]) => Math.hypot(y - this.drag!.y, x - this.drag!.x)));
      // A drag is an outline drawn in one go; clicks add corners until Enter.
      if (span * this.view.scale > 4 * this.density && this.outline.length > 8 && far <= span) this.finish();
    } else if (this.drag && this.tool === "cut") this.cut();
    this.drag = null;
    this.showHint();
    this.draw();
  }

  private cancel(): void {
    this.stroke?.takeBack();
    this.stroke = null;
    this.drag = null;
    this.outline = [];
    this.rect = null;
    this.merging = false;
    this.selected = 0;
    this.showHint();
    this.draw();
  }

  private finish(): void {
    if (this.tool === "rectangle" && this.rect) {
      this.request({ kind: "complete", rect: this.corners(this.rect) });
      this.rect = null;
    } else if (this.tool === "outline" && this.outline.length >= 3) {
      const points = this.outline;
      this.outline = [];
      let value = 0;
      if (!this.background) {
        if (choice("kind").value === "classes") value = Number(input("class-value").value);
        else {
          if (input("auto-new").checked || this.current === 0) this.newObject();
          value = this.current;
        }
        if (value === 0) return;
      }
      this.request({ kind: "polygon", points, value, protect: input("protect").checked });
    }
    this.draw();
  }

  private cut(): void {
    const points = this.outline;
    this.outline = [];
    if (points.length < 2) return;
    const counts = new Map<number, number>();
    for (const [y, x] of points) {
      const label = this.labelAt(y, x) ?? -1;
      if (label > 0) counts.set(label, (counts.get(label) ?? 0) + 1);
    }
    const under = [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
    const object = this.selected && counts.has(this.selected) ? this.selected : under;
    if (object) this.request({ kind: "cut", object, points });
    else this.say("The line crosses no object.");
  }

  private pick(label: number): void {
    this.selected = Math.max(0, label);
    if (label > 0) this.current = label;
    if (label > 0 && choice("kind").value === "classes") input("class-value").value = String(label);
    this.draw();
  }

  private corners(rect: Rect): [number, number, number, number] {
    return [rect.y0, rect.x0, rect.y1, rect.x1];
  }

  private visibleRect(): Rect {
    return clip(visible(this.view, this.size()), this.info!.height, this.info!.width);
  }

  // ---- keys and buttons

  act(action: string): void {
    if (!this.info && !["help", "next", "previous", "learn"].includes(action)) return this.say("No image is open.");
    if ((TOOLS as readonly string[]).includes(action)) return this.setTool(action as Tool);
    const middle = this.size();
    const zoom = (factor: number): void => this.zoomBy(factor, middle.height / 2, middle.width / 2);
    const toggle = (id: string): void => input(id).click();
    const actions: Record<string, () => void> = {
      new: () => {
        this.newObject();
        this.setTool("brush");
        this.say(`New object ${this.current}`);
      },
      swap: () => {
        this.background = !this.background;
        if (this.tool !== "fill" && this.tool !== "outline") this.setTool("brush");
        this.showHint();
      },
      smaller: () => this.setRadius(this.radius - Math.max(0.5, this.radius * 0.15)),
      larger: () => this.setRadius(this.radius + Math.max(0.5, this.radius * 0.15)),
      delete: () => {
        if (!this.selected) return this.say("Select an object first: L, then click it.");
        this.request({ kind: "delete", object: this.selected });
        this.selected = 0;
      },
      merge: () => {
        if (!this.selected) return this.say("Select an object first: L, then click it.");
        this.merging = true;
        this.showHint();
      },
      accept: () => {
        if (this.rect) {
          this.request({ kind: "accept", rect: this.corners(this.rect) });
          this.rect = null;
        } else if (this.pointer) this.request({ kind: "accept", at: [Math.floor(this.pointer.y), Math.floor(this.pointer.x)] });
      },
      acceptView: () => this.request({ kind: "accept", rect: this.corners(this.visibleRect()) }),
      undo: () => this.step("undo"),
      redo: () => this.step("redo"),
      next: () => this.turn(1),
      previous: () => this.turn(-1),
      nextPlane: () => this.turnPlane(1),
      previousPlane: () => this.turnPlane(-1),
      hide: () => {
        this.hidden = !this.hidden;
        this.draw();
      },
      outlines: () => {
        this.outlinesOnly = !this.outlinesOnly;
        this.draw();
      },
      hidePrediction: () => toggle("show-prediction"),
      doubt: () => toggle("show-doubt"),
      contrast: () => this.contrast(),
      invert: () => toggle("invert"),
      fit: () => this.setView(fitted(this.info!, this.size())),
      zoomIn: () => zoom(1.4),
      zoomOut: () => zoom(1 / 1.4),
      learn: () => el("learn").click(),
      finish: () => this.finish(),
      cancel: () => this.cancel(),
      help: () => el<HTMLDialogElement>("help").showModal(),
    };
    actions[action]?.();
  }

  private turn(by: number): void {
    const images = this.folder!.images;
    const at = images.findIndex((one) => one.id === this.info?.id);
    const rest = by > 0 ? images.slice(at + 1) : images.slice(0, Math.max(0, at)).reverse();
    if (rest.length > 0) void this.openFirst(rest.map((one) => one.id));
  }

  private turnPlane(by: number): void {
    const { info } = this;
    if (!info) return;
    if (info.sections > 1) this.z = Math.max(0, Math.min(info.sections - 1, this.z + by));
    else if (info.frames > 1) this.t = Math.max(0, Math.min(info.frames - 1, this.t + by));
    else return;
    this.openPlane();
  }

  private contrast(): void {
    this.info!.windows.forEach((window, n) => (this.layers[n]!.window = [...window]));
    this.buildChannels();
    this.draw();
  }

  private setView(view: View): void {
    this.view = view;
    this.draw();
    this.look();
  }

  private zoomBy(factor: number, sy: number, sx: number): void {
    if (!this.info) return;
    const least = Math.min(0.5, fitScale(this.info, this.size()) / 2);
    this.setView(zoomed(this.view, this.size(), sy, sx, factor, least));
  }

  private lookTimer = 0;

  /** Tell the server, soon, what is on the screen: that is predicted. */
  private look(): void {
    clearTimeout(this.lookTimer);
    this.lookTimer = window.setTimeout(() => {
      if (!this.info || !this.tiles) return;
      const rect = this.visibleRect();
      if (!isEmpty(rect)) api.look(this.tiles.plane, rect).catch(() => undefined);
    }, 200);
  }

  private dropPrediction(): void {
    if (!this.predicted) return;
    this.painter.free(this.predicted.labels);
    this.painter.free(this.predicted.sure);
    this.predicted = null;
  }

  private async loadPrediction(): Promise<void> {
    const tiles = this.tiles;
    if (!tiles) return;
    const data = await api.prediction(tiles.plane);
    if (tiles !== this.tiles) return;
    this.dropPrediction();
    if (data) {
      const height = data.rect.y1 - data.rect.y0;
      const width = data.rect.x1 - data.rect.x0;
      const labels = this.painter.texture(data.labels, height, width);
      this.predicted = { labels, sure: this.painter.texture(data.sure, height, width), data };
    }
    document.body.dataset.predicted = data ? String(data.labels.reduce((a, b) => Math.max(a, b), 0)) : "";
    this.draw();
  }

  // ---- panels

  private buildTools(): void {
    const names: Record<string, string> = {
      brush: "Brush", eraser: "Eraser", fill: "Fill", outline: "Outline", pick: "Pick", cut: "Cut",
      rectangle: "Box", new: "New", swap: "Background", delete: "Delete", merge: "Merge",
    };
    for (const [action, name] of Object.entries(names)) {
      const button = document.createElement("button");
      button.id = `tool-${action}`;
      const key = KEYS.find((one) => one.action === action)!;
      button.title = key.help;
      const kbd = document.createElement("kbd");
      kbd.textContent = action === "delete" ? "Del" : key.keys[0]!.toUpperCase();
      button.append(name, kbd);
      button.onclick = () => this.act(action);
      el("tools").append(button);
    }
    this.setTool("brush");
    el("keys").replaceChildren(
      ...KEYS.map((one) => {
        const row = document.createElement("tr");
        const keys = row.insertCell();
        keys.append(
          ...one.keys.flatMap((key, n) => {
            const kbd = document.createElement("kbd");
            kbd.textContent = key;
            return n > 0 ? [" ", kbd] : [kbd];
          }),
        );
        row.insertCell().textContent = one.help;
        return row;
      }),
    );
  }

  private buildChannels(): void {
    const info = this.info!;
    const top = info.bits === 8 ? 255 : 65535;
    el("channels").replaceChildren(
      ...this.layers.map((layer, n) => {
        const row = document.createElement("div");
        row.className = "channel";
        const on = document.createElement("input");
        on.type = "checkbox";
        on.checked = this.shown.includes(n);
        on.hidden = info.channels === 1;
        on.setAttribute("aria-label", `Channel ${n + 1}`);
        on.onchange = () => {
          const rest = this.shown.filter((one) => one !== n);
          this.shown = on.checked ? [...rest, n].slice(-3).sort((a, b) => a - b) : rest.length > 0 ? rest : [n];
          this.buildChannels();
          this.draw();
        };
        const sliders = [0, 1].map((end) => {
          const slider = document.createElement("input");
          slider.type = "range";
          const [low, high] = info.windows[n]!;
          slider.max = String(Math.min(top, Math.max(layer.window[1], high + 2 * (high - low))));
          slider.min = String(Math.max(0, Math.min(layer.window[0], low - (high - low))));
          slider.value = String(layer.window[end]);
          slider.setAttribute("aria-label", `Channel ${n + 1}: ${end ? "brightest" : "darkest"} value`);
          slider.oninput = () => {
            layer.window[end] = Number(slider.value);
            this.draw();
          };
          slider.ondblclick = () => this.contrast();
          return slider;
        });
        row.append(on, ...sliders);
        return row;
      }),
    );
  }

  private buildPlanes(): void {
    const info = this.info!;
    const parts: HTMLElement[] = [];
    for (const [name, count, value] of [
      ["z", info.sections, this.z],
      ["t", info.frames, this.t],
    ] as const) {
      if (count === 1) continue;
      const label = document.createElement("label");
      const slider = document.createElement("input");
      slider.type = "range";
      slider.min = "0";
      slider.max = String(count - 1);
      slider.value = String(value);
      slider.oninput = () => {
        this[name] = Number(slider.value);
        this.openPlane();
      };
      label.append(`${name} ${value + 1}/${count}`, slider);
      parts.push(label);
    }
    const open = document.activeElement;
    if (!(open instanceof HTMLInputElement && el("planes").contains(open))) el("planes").replaceChildren(...parts);
    else el("planes").querySelectorAll("label").forEach((one, n) => (one.firstChild!.textContent = parts[n]!.firstChild!.textContent));
  }

  private showLive(live: api.LiveState): void {
    el("live-text").textContent = live.text;
    el("learn").textContent = live.state === "paused" || live.state === "failed" ? "Learn" : "Pause";
    document.body.dataset.live = live.state;
    document.body.dataset.step = String(live.step);
    if (live.step === 0) this.losses = [];
    if (live.loss !== null) {
      this.losses.push(live.loss);
      if (this.losses.length > 400) this.losses = this.losses.filter((_, n) => n % 2 === 0);
      const top = Math.max(...this.losses, 1e-6);
      const last = Math.max(1, this.losses.length - 1);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
      const points = this.losses.map((loss, n) => `${((100 * n) / last).toFixed(2)},${(23 - (22 * loss) / top).toFixed(2)}`);
      line.setAttribute("points", points.join(" "));
      el("loss").replaceChildren(line);
    }
  }

  private showJob(job: api.JobState): void {
    const scores = Object.entries(job.scores).map(([name, value]) => `${name} ${value.toFixed(3)}`);
    el("job-text").textContent = [job.text, scores.join(", ")].filter((one) => one).join("\n");
    el("share").hidden = el("stop").hidden = !job.running;
    el<HTMLProgressElement>("share").value = job.share;
    this.showSuggested(job.suggested);
    for (const id of ["train", "predict", "suggest"]) el<HTMLButtonElement>(id).disabled = job.running;
    const report = el<HTMLAnchorElement>("report");
    report.hidden = !job.report;
    report.href = "api/report/";
    document.body.dataset.job = job.running ? "running" : "done";
  }

  private showSuggested(images: api.Suggested[]): void {
    el("suggested").replaceChildren(
      ...images.map((one) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.textContent = `${one.name} (${one.disagreement.toFixed(3)})`;
        button.onclick = () => void this.openFirst([one.id], [], one.t, one.z);
        item.append(button);
        return item;
      }),
    );
  }

  // ---- events

  private bind(): void {
    new Pointers(canvas, {
      image: (sy, sx) => toImage(this.view, this.size(), sy, sx),
      down: (at) => this.down(at),
      move: (at) => this.move(at),
      up: (at) => this.up(at),
      cancel: () => {
        this.stroke?.takeBack();
        this.stroke = null;
        this.drag = null;
        if (this.tool === "cut") this.outline = [];
      },
      leave: () => {
        this.pointer = null;
        this.draw();
      },
      pan: (dy, dx) => this.setView({ ...this.view, y: this.view.y - dy / this.view.scale, x: this.view.x - dx / this.view.scale }),
      zoom: (factor, sy, sx) => this.zoomBy(factor, sy, sx),
      size: (by) => this.act(by > 0 ? "larger" : "smaller"),
      plane: (by) => this.turnPlane(by),
      double: () => this.finish(),
    });
    addEventListener("keydown", (event) => {
      const target = event.target as HTMLElement;
      const typed = target instanceof HTMLInputElement && ["number", "text"].includes(target.type);
      if (typed || event.altKey || el<HTMLDialogElement>("help").open) return;
      const own = target.matches("button, select, a, input");
      if (own && ["Enter", " ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
      const action = actionOf(event);
      if (!action || (event.repeat && !["smaller", "larger", "undo", "redo", "nextPlane", "previousPlane"].includes(action))) return;
      event.preventDefault();
      this.act(action);
    });
    const clicks: Record<string, () => void> = {
      previous: () => this.turn(-1),
      next: () => this.turn(1),
      undo: () => this.step("undo"),
      redo: () => this.step("redo"),
      "help-open": () => this.act("help"),
      "panel-toggle": () => el("panel").classList.toggle("open"),
      fit: () => this.act("fit"),
      one: () => this.setView({ ...this.view, scale: this.density }),
      contrast: () => this.contrast(),
      "accept-view": () => this.act("acceptView"),
      complete: () => this.request({ kind: "complete" }),
      learn: () => this.send(() => api.live(el("learn").textContent === "Pause" ? "pause" : "resume")),
      train: () => this.whenSaved(() => api.job("train", { budget_s: Number(choice("budget").value) })),
      predict: () => {
        const also = ["tables", "geojson", "rois"].filter((form) => input(form).checked);
        this.send(() => api.job("predict", { model: choice("model").value, also }));
      },
      suggest: () => this.send(() => api.job("suggest", { model: choice("model").value })),
      stop: () => this.send(() => api.job("stop")),
    };
    for (const [id, work] of Object.entries(clicks)) el(id).onclick = work;
    el("download").onclick = (event) => {
      if (this.saving.unsaved === 0) return;
      event.preventDefault();
      this.sayUnsaved();
    };
    choice("images").onchange = () => void this.openFirst([choice("images").value]);
    choice("model").onchange = () => (this.chosen = true);
    choice("start").onchange = () => this.send(() => api.live("restart", choice("start").value));
    choice("kind").onchange = () =>
      this.send(async () => {
        el("class-row").hidden = choice("kind").value === "objects";
        await api.setKind(choice("kind").value);
      });
    input("radius").oninput = () => this.setRadius(this.radius);
    for (const id of ["invert", "show-prediction", "show-doubt", "wash"]) input(id).oninput = () => this.draw();
    addEventListener("beforeunload", (event) => {
      if (this.saving.unsaved > 0) event.preventDefault();
    });
  }

  private send(work: () => Promise<unknown>): void {
    this.saving.idle().then(work).catch((error: unknown) => this.say((error as Error).message));
  }

  private whenSaved(work: () => Promise<unknown>): void {
    this.send(async () => (this.saving.unsaved > 0 ? this.sayUnsaved() : work()));
  }

  private sayUnsaved(): void {
    this.say("Some edits are not saved yet: wait until the page says \"saved\".");
  }

  private listen(): void {
    const stream = new EventSource("api/events");
    const on = <T>(topic: string, take: (data: T) => void): void =>
      stream.addEventListener(topic, (event) => take(JSON.parse((event as MessageEvent<string>).data) as T));
    on("hello", () => {
      if (this.lost) this.loadAgain(); // the server was started again: the page shows its state
      // Nobody has told what has changed between the load of the page and this stream.
      else {
        this.later((this.tiles?.places ?? []).map(({ ty, tx }): [number, number, number] => [ty, tx, Infinity]));
        this.renewFolder().catch((error: unknown) => this.say((error as Error).message));
      }
    });
    stream.onerror = () => {
      this.lost = true;
      this.showSaved();
      if (stream.readyState !== EventSource.CLOSED)
        return this.say("The server does not answer. Strokes that were shown as saved are saved; others are sent again.");
      // The server refuses the stream, and the browser does not ask again: it was started again with another key.
      api.folder().catch((error: unknown) => this.say((error as Error).message));
      setTimeout(() => this.listen(), AGAIN_MS);
    };
    type Labels = { image: string; t: number; z: number; tiles: [number, number, number][]; objects: number; read: boolean };
    on<Labels>("labels", (data) => {
      this.count(data.image, data.objects);
      // Objects of a mask that was read may have these numbers.
      if (data.read && data.image === this.info?.id && this.reserved.length > 0) {
        this.reserved = [];
        void this.reserve();
      }
      if (data.image === this.info?.id && data.t === this.t && data.z === this.z) this.later(data.tiles);
    });
    on<{ image: string; t: number; z: number; share: number }>("levels", (data) => {
      if (data.image !== this.info?.id) return;
      if (data.share < 1) this.say(`Making coarser levels of this image: ${Math.round(100 * data.share)} %`);
      else el("message").textContent = "";
      this.tiles?.askAgain();
    });
    on<{ image: string; t: number; z: number }>("prediction", (data) => {
      if (data.image === this.info?.id && data.t === this.t && data.z === this.z) void this.loadPrediction();
    });
    on<api.LiveState>("live", (data) => this.showLive(data));
    on<api.JobState>("job", (data) => {
      this.showJob(data);
      if (!data.running) void this.loadFolder();
    });
    on<{ models: string[] }>("models", (data) => this.listModels(data.models));
    on<{ text: string }>("failure", (data) => this.say(data.text));
    on<{ text: string }>("note", (data) => this.say(data.text));
    on("reload", () => this.loadAgain());
  }
}

const page = new Page();
page.begin().catch((error: unknown) => {
  el("message").textContent = (error as Error).message;
});
