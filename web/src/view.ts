// Which part of the image is on the screen.

import type { Rect } from "./grid";

export interface View {
  y: number; // image coordinate of the middle of the canvas
  x: number;
  scale: number; // screen pixels per image pixel
}

export interface Size {
  height: number;
  width: number;
}

export const MOST_SCALE = 40;

export function toImage(view: View, canvas: Size, sy: number, sx: number): [number, number] {
  return [view.y + (sy - canvas.height / 2) / view.scale, view.x + (sx - canvas.width / 2) / view.scale];
}

export function toScreen(view: View, canvas: Size, y: number, x: number): [number, number] {
  return [(y - view.y) * view.scale + canvas.height / 2, (x - view.x) * view.scale + canvas.width / 2];
}

/** Zoom so that the point of the image under (sy, sx) stays there. */
export function zoomed(view: View, canvas: Size, sy: number, sx: number, factor: number, least: number): View {
  const scale = Math.max(least, Math.min(MOST_SCALE, view.scale * factor));
  const [y, x] = toImage(view, canvas, sy, sx);
  return { y: y - (sy - canvas.height / 2) / scale, x: x - (sx - canvas.width / 2) / scale, scale };
}

export function fitScale(image: Size, canvas: Size): number {
  return 0.96 * Math.min(canvas.height / image.height, canvas.width / image.width);
}

export function fitted(image: Size, canvas: Size): View {
  return { y: image.height / 2, x: image.width / 2, scale: Math.min(8, fitScale(image, canvas)) };
}

export function visible(view: View, canvas: Size): Rect {
  const [y0, x0] = toImage(view, canvas, 0, 0);
  const [y1, x1] = toImage(view, canvas, canvas.height, canvas.width);
  return { y0: Math.floor(y0), x0: Math.floor(x0), y1: Math.ceil(y1), x1: Math.ceil(x1) };
}
