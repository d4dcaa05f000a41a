// Draws tiles: images with their window of intensities, labels and predictions with colors and crisp outlines.

import { SIDE, type Rect } from "./grid";
import type { Size, View } from "./view";

const VERTEX = `#version 300 es
uniform vec4 box; // of the quad on the screen, -1..1
uniform vec2 sides; // pixels of the texture
out vec2 at;
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  at = corner * sides;
  gl_Position = vec4(mix(box.xy, box.zw, corner), 0, 1);
}`;

const IMAGE = `#version 300 es
precision highp float;
precision highp usampler2D;
uniform usampler2D channel0, channel1, channel2;
uniform vec2 window0, window1, window2;
uniform vec3 color0, color1, color2;
uniform float invert;
uniform vec2 sides;
in vec2 at;
out vec4 shown;
vec3 part(usampler2D channel, vec2 window, vec3 color) {
  float value = float(texelFetch(channel, ivec2(min(at, sides - 1.)), 0).r);
  return color * clamp((value - window.x) / max(window.y - window.x, 1.), 0., 1.);
}
void main() {
  vec3 sum = part(channel0, window0, color0) + part(channel1, window1, color1) + part(channel2, window2, color2);
  shown = vec4(mix(sum, 1. - sum, invert), 1);
}`;

const LABELS = `#version 300 es
precision highp float;
precision highp isampler2D;
precision highp usampler2D;
uniform isampler2D labels;
uniform usampler2D sure;
uniform vec2 sides;
uniform float pixel; // texture pixels of one screen pixel
uniform float wash, outline, doubt;
uniform int selected, predicted;
in vec2 at;
out vec4 shown;
int label(vec2 p) { return texelFetch(labels, ivec2(clamp(p, vec2(0), sides - 1.)), 0).r; }
vec3 hue(int id) {
  uint h = uint(id) * 2654435761u;
  float a = float(h >> 8) / 16777216. * 6.2832;
  return .58 + .42 * cos(a + vec3(0, 2.0944, 4.1888));
}
bool edge(int id, float width) {
  vec2 d = vec2(max(pixel * width, 0.), 0);
  return label(at + d.xy) != id || label(at - d.xy) != id || label(at + d.yx) != id || label(at - d.yx) != id;
}
void main() {
  int id = label(at);
  shown = vec4(0);
  if (predicted == 1) {
    float p = float(texelFetch(sure, ivec2(clamp(at, vec2(0), sides - 1.)), 0).r) / 255.;
    if (doubt > 0.) shown = vec4(1., .45, .05, 1.) * (1. - abs(2. * p - 1.)) * doubt;
    if (id > 0 && edge(id, 1.)) shown = vec4(1., .86, .1, 1.) * outline;
    return;
  }
  if (id == 0) { shown = vec4(.25, .5, 1., 1.) * .16 * wash; }
  if (id > 0) {
    vec3 c = hue(id);
    float a = edge(id, 1.) ? outline : .42 * wash;
    if (id == selected) { c = edge(id, 2.) ? vec3(1) : c; a = edge(id, 2.) ? 1. : a; }
    shown = vec4(c, 1.) * a;
  }
}`;

const BLACK: [number, number, number] = [0, 0, 0];

export interface Layer {
  window: [number, number];
  color: [number, number, number];
}

export interface Look {
  wash: number;
  outline: number;
  selected: number;
}

type Uniforms = Record<string, WebGLUniformLocation | null>;

export class Painter {
  private readonly gl: WebGL2RenderingContext;
  private readonly image: [WebGLProgram, Uniforms];
  private readonly labels: [WebGLProgram, Uniforms];
  private readonly empty: WebGLTexture;
  readonly largest: number;

  constructor(private readonly canvas: HTMLCanvasElement) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("This browser shows no WebGL 2, which the page needs. Use a current browser.");
    this.gl = gl;
    this.largest = gl.getParameter(gl.MAX_TEXTURE_SIZE) as number;
    this.image = this.program(IMAGE, "box sides channel0 channel1 channel2 window0 window1 window2 color0 color1 color2 invert");
    this.labels = this.program(LABELS, "box sides labels sure pixel wash outline doubt selected predicted");
    this.empty = this.texture(new Uint8Array(1), 1, 1);
    gl.bindVertexArray(gl.createVertexArray());
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  private program(fragment: string, names: string): [WebGLProgram, Uniforms] {
    const gl = this.gl;
    const program = gl.createProgram()!;
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, fragment],
    ] as const) {
      const shader = gl.createShader(kind)!;
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader) ?? "shader");
    }
    gl.linkProgram(program);
    const places: Uniforms = {};
    for (const name of names.split(" ")) places[name] = gl.getUniformLocation(program, name);
    return [program, places];
  }

  texture(data: Uint8Array | Uint16Array | Int32Array, height: number, width: number): WebGLTexture {
    const gl = this.gl;
    const texture = gl.createTexture()!;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const [name, value] of [
      [gl.TEXTURE_MIN_FILTER, gl.NEAREST],
      [gl.TEXTURE_MAG_FILTER, gl.NEAREST],
      [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE],
      [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
    ] as const)
      gl.texParameteri(gl.TEXTURE_2D, name, value);
    const [inner, format, type] = this.format(data);
    gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, height, 0, format, type, data);
    return texture;
  }

  private format(data: Uint8Array | Uint16Array | Int32Array): [number, number, number] {
    const gl = this.gl;
    if (data instanceof Int32Array) return [gl.R32I, gl.RED_INTEGER, gl.INT];
    if (data instanceof Uint16Array) return [gl.R16UI, gl.RED_INTEGER, gl.UNSIGNED_SHORT];
    return [gl.R8UI, gl.RED_INTEGER, gl.UNSIGNED_BYTE];
  }

  /** Copy the rows y0..y1 of a tile of labels to its texture. */
  refresh(texture: WebGLTexture, labels: Int32Array, y0: number, y1: number): void {
    const gl = this.gl;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    const rows = labels.subarray(y0 * SIDE, y1 * SIDE);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, y0, SIDE, y1 - y0, gl.RED_INTEGER, gl.INT, rows);
  }

  free(texture: WebGLTexture): void {
    this.gl.deleteTexture(texture);
  }

  begin(): void {
    this.gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    this.gl.clearColor(0.11, 0.12, 0.14, 1);
    this.gl.clear(this.gl.COLOR_BUFFER_BIT);
  }

  private quad(places: Uniforms, rect: Rect, sides: Size, view: View, canvas: Size): void {
    const gl = this.gl;
    const fx = (x: number): number => ((x - view.x) * view.scale * 2) / canvas.width;
    const fy = (y: number): number => ((view.y - y) * view.scale * 2) / canvas.height;
    gl.uniform4f(places.box!, fx(rect.x0), fy(rect.y0), fx(rect.x1), fy(rect.y1));
    gl.uniform2f(places.sides!, sides.width, sides.height);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  private bind(unit: number, texture: WebGLTexture, place: WebGLUniformLocation | null): void {
    this.gl.activeTexture(this.gl.TEXTURE0 + unit);
    this.gl.bindTexture(this.gl.TEXTURE_2D, texture);
    this.gl.uniform1i(place, unit);
    this.gl.activeTexture(this.gl.TEXTURE0);
  }

  drawImage(textures: WebGLTexture[], layers: Layer[], invert: boolean, rect: Rect, sides: Size, view: View, canvas: Size): void {
    const gl = this.gl;
    const [program, places] = this.image;
    gl.useProgram(program);
    for (let n = 0; n < 3; n++) {
      const layer = layers[n];
      this.bind(n, textures[n] ?? this.empty, places[`channel${n}`]!);
      gl.uniform2f(places[`window${n}`]!, ...(layer?.window ?? [0, 1]));
      gl.uniform3f(places[`color${n}`]!, ...(layer && textures[n] ? layer.color : BLACK));
    }
    gl.uniform1f(places.invert!, invert ? 1 : 0);
    this.quad(places, rect, sides, view, canvas);
  }

  drawLabels(labels: WebGLTexture, sure: WebGLTexture | null, look: Look, doubt: number, rect: Rect, sides: Size, view: View, canvas: Size): void {
    const gl = this.gl;
    const [program, places] = this.labels;
    gl.useProgram(program);
    this.bind(0, labels, places.labels!);
    this.bind(1, sure ?? this.empty, places.sure!);
    gl.uniform1f(places.pixel!, sides.width / (rect.x1 - rect.x0) / view.scale);
    gl.uniform1f(places.wash!, look.wash);
    gl.uniform1f(places.outline!, look.outline);
    gl.uniform1f(places.doubt!, doubt);
    gl.uniform1i(places.selected!, look.selected);
    gl.uniform1i(places.predicted!, sure ? 1 : 0);
    this.quad(places, rect, sides, view, canvas);
  }
}
