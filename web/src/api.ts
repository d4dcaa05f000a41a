// Requests to the server; addresses are relative, so that a proxy may put the page below another path.

import type { Place, Rect } from "./grid";
import { Refused } from "./saving";

export interface ImageEntry {
  id: string;
  name: string;
  objects: number;
  annotated: boolean;
}

export interface Folder {
  folder: string;
  images: ImageEntry[];
  passed_over: string[];
  models: string[];
  live: LiveState;
  job: JobState | null;
}

export interface LiveState {
  state: "waiting" | "starting" | "learning" | "paused" | "failed";
  text: string;
  start: string;
  step: number;
  loss: number | null;
  kind: "objects" | "classes";
}

export interface JobState {
  kind: "train" | "predict" | "suggest";
  running: boolean;
  text: string;
  share: number;
  scores: Record<string, number>;
  report: boolean;
  suggested: Suggested[];
}

export interface Suggested {
  id: string;
  name: string;
  t: number;
  z: number | null;
  disagreement: number;
}

export interface ImageInfo {
  id: string;
  name: string;
  height: number;
  width: number;
  channels: number;
  frames: number;
  sections: number;
  bits: number;
  windows: [number, number][];
  levels: number;
  written: boolean;
  objects: number | null; // null: nothing is annotated
}

export interface Edited {
  name: string | null;
  t?: number;
  z?: number;
  tiles: [number, number, number][];
}

export interface Plane {
  image: string;
  t: number;
  z: number;
}

export interface Prediction {
  rect: Rect;
  labels: Int32Array;
  sure: Uint8Array;
}

/** An edit on a state that another window has changed. */
export class Conflict extends Refused {}

/** The server does not know the key of this page, as after it was started again. */
export class OtherKey extends Error {
  constructor(text: string) {
    super(`${text}\nIf the server was started again, open its new address in this browser: what is not saved is then sent.`);
  }
}

async function checked(answer: Response): Promise<Response> {
  if (answer.ok) return answer;
  let text = `${answer.status}`;
  try {
    const body = await answer.text();
    text = body.startsWith("{") ? (JSON.parse(body) as { error: string }).error : body;
  } catch {
    // the status says it
  }
  if (answer.status === 409) throw new Conflict(text);
  if (answer.status === 403) throw new OtherKey(text.trim());
  throw answer.status < 500 ? new Refused(text) : new Error(text); // 5xx: it could not do what was asked, as on a full disk
}

async function get<T>(path: string): Promise<T> {
  return (await (await checked(await fetch(path))).json()) as T;
}

async function post<T>(path: string, body: unknown = {}): Promise<T> {
  const headers = { "content-type": "application/json" };
  return (await (await checked(await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }))).json()) as T;
}

const at = (plane: Plane): string => `${plane.image}/${plane.t}/${plane.z}`;

export const folder = (): Promise<Folder> => get("api/folder");
export const image = (id: string): Promise<ImageInfo> => get(`api/image/${id}`);
export const edit = (plane: Plane, request: object): Promise<Edited> => post(`api/edit/${at(plane)}`, request);
export const step = (id: string, way: "undo" | "redo"): Promise<Edited> => post(`api/step/${id}/${way}`);
export const reserve = (id: string): Promise<{ ids: number[] }> => post(`api/reserve/${id}`);
export const look = (plane: Plane, rect: Rect): Promise<unknown> =>
  post("api/view", { ...plane, rect: [rect.y0, rect.x0, rect.y1, rect.x1] });
export const live = (command: string, start?: string): Promise<unknown> => post("api/live", { command, start });
export const setKind = (kind: string): Promise<unknown> => post("api/kind", { kind });
export const job = (kind: string, options: object = {}): Promise<unknown> => post(`api/job/${kind}`, options);

/** A tile of one channel; null while the server still makes it. */
export async function pixels(
  plane: Plane,
  channel: number,
  level: number,
  place: Place,
  signal: AbortSignal,
): Promise<{ data: Uint8Array | Uint16Array; height: number; width: number } | null> {
  const answer = await checked(await fetch(`api/pixels/${at(plane)}/${channel}/${level}/${place.ty}/${place.tx}`, { signal }));
  if (answer.status === 202) return null;
  const bytes = await answer.arrayBuffer();
  const [height, width] = answer.headers.get("x-sides")!.split("x").map(Number) as [number, number];
  const data = answer.headers.get("x-type") === "uint8" ? new Uint8Array(bytes) : new Uint16Array(bytes);
  return { data, height, width };
}

export async function labels(
  plane: Plane,
  level: number,
  place: Place,
  signal?: AbortSignal,
): Promise<{ data: Int32Array; version: number }> {
  const answer = await checked(await fetch(`api/labels/${at(plane)}/${level}/${place.ty}/${place.tx}`, { signal }));
  return { data: new Int32Array(await answer.arrayBuffer()), version: Number(answer.headers.get("x-version")) };
}

export async function prediction(plane: Plane): Promise<Prediction | null> {
  const answer = await checked(await fetch(`api/prediction/${at(plane)}`));
  if (answer.status === 204) return null;
  const [y0, x0, y1, x1] = answer.headers.get("x-rect")!.split(" ").map(Number) as [number, number, number, number];
  const bytes = await answer.arrayBuffer();
  const count = (y1 - y0) * (x1 - x0);
  return { rect: { y0, x0, y1, x1 }, labels: new Int32Array(bytes, 0, count), sure: new Uint8Array(bytes, 4 * count, count) };
}
