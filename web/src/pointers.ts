// Mouse, pen and fingers: one finger or button draws, two fingers or Space move and zoom.

export interface Point {
  y: number; // in pixels of the image
  x: number;
  ctrl: boolean;
  alt: boolean;
  pen: boolean;
  touch: boolean;
  eraser: boolean;
  pressure: number;
}

export interface Hands {
  image(sy: number, sx: number): [number, number];
  down(at: Point): void;
  move(at: Point): void;
  up(at: Point): void;
  cancel(): void;
  leave(): void;
  pan(dy: number, dx: number): void;
  zoom(factor: number, sy: number, sx: number): void;
  size(by: number): void;
  plane(by: number): void;
  double(): void;
}

const ERASER = 32; // bit of `buttons`
const PALM_MS = 1500; // a finger this soon after the pen is a palm

export class Pointers {
  private space = false;
  private drawing = -1; // the pointer that draws
  private panning = -1;
  private last: [number, number] = [0, 0];
  private readonly fingers = new Map<number, [number, number]>();
  private pen = -Infinity;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly hands: Hands,
  ) {
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.cancel(event));
    canvas.addEventListener("pointerleave", () => this.drawing < 0 && hands.leave());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => hands.double());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    addEventListener("keydown", (event) => {
      if (event.code !== "Space" || (event.target as HTMLElement).matches("button, select, input, a")) return;
      this.space = true;
      event.preventDefault();
    });
    addEventListener("keyup", (event) => {
      if (event.code === "Space") this.space = false;
    });
    addEventListener("blur", () => (this.space = false));
  }

  private screen(event: MouseEvent): [number, number] {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / Math.max(1, box.width);
    return [(event.clientY - box.top) * ratio, (event.clientX - box.left) * ratio];
  }

  private point(event: PointerEvent): Point {
    const [y, x] = this.hands.image(...this.screen(event));
    const pen = event.pointerType === "pen";
    return {
      y,
      x,
      ctrl: event.ctrlKey || event.metaKey,
      alt: event.altKey,
      pen,
      touch: event.pointerType === "touch",
      eraser: pen && (event.buttons & ERASER) !== 0,
      pressure: event.pressure,
    };
  }

  private down(event: PointerEvent): void {
    if (event.pointerType === "pen") this.pen = event.timeStamp;
    if (event.pointerType === "touch") {
      if (event.timeStamp - this.pen < PALM_MS) return;
      this.fingers.set(event.pointerId, this.screen(event));
      if (this.fingers.size === 2 && this.drawing >= 0) {
        this.hands.cancel();
        this.drawing = -1;
      }
      if (this.fingers.size > 1) return;
    }
    try {
      this.canvas.setPointerCapture(event.pointerId);
    } catch {
      // the pointer has left already
    }
    if (event.button === 1 || this.space) {
      this.panning = event.pointerId;
      this.last = this.screen(event);
      event.preventDefault();
      return;
    }
    if (this.drawing >= 0 || (event.button !== 0 && event.button !== 5)) return;
    this.drawing = event.pointerId;
    this.hands.down(this.point(event));
  }

  private move(event: PointerEvent): void {
    if (event.pointerType === "pen") this.pen = event.timeStamp;
    if (this.fingers.has(event.pointerId) && this.fingers.size === 2) return this.pinch(event);
    if (event.pointerId === this.panning) {
      const now = this.screen(event);
      this.hands.pan(now[0] - this.last[0], now[1] - this.last[1]);
      this.last = now;
      return;
    }
    if (this.drawing >= 0 && event.pointerId !== this.drawing) return;
    const events = this.drawing >= 0 ? event.getCoalescedEvents() : [];
    for (const one of events.length > 0 ? events : [event]) this.hands.move(this.point(one));
  }

  private pinch(event: PointerEvent): void {
    const [a, b] = [...this.fingers.values()] as [[number, number], [number, number]];
    const before = Math.hypot(a[0] - b[0], a[1] - b[1]);
    const middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] as const;
    this.fingers.set(event.pointerId, this.screen(event));
    const [c, d] = [...this.fingers.values()] as [[number, number], [number, number]];
    const after = Math.hypot(c[0] - d[0], c[1] - d[1]);
    const now = [(c[0] + d[0]) / 2, (c[1] + d[1]) / 2] as const;
    this.hands.pan(now[0] - middle[0], now[1] - middle[1]);
    if (before > 0) this.hands.zoom(after / before, now[0], now[1]);
  }

  private up(event: PointerEvent): void {
    this.fingers.delete(event.pointerId);
    if (event.pointerId === this.panning) this.panning = -1;
    if (event.pointerId !== this.drawing) return;
    this.drawing = -1;
    this.hands.up(this.point(event));
  }

  private cancel(event: PointerEvent): void {
    this.fingers.delete(event.pointerId);
    if (event.pointerId === this.panning) this.panning = -1;
    if (event.pointerId !== this.drawing) return;
    this.drawing = -1;
    this.hands.cancel();
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    if (event.altKey) return this.hands.size(-event.deltaY || -event.deltaX);
    // A pinch on a touch pad arrives as a wheel with Ctrl, in small steps.
    if (event.ctrlKey && Number.isInteger(event.deltaY) && Math.abs(event.deltaY) >= 50) return this.hands.plane(Math.sign(event.deltaY));
    this.hands.zoom(2 ** (-event.deltaY / (event.ctrlKey ? 100 : 300)), ...this.screen(event));
  }
}
