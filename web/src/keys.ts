// Keys of the page: one table for what they do and for the help.

export interface Key {
  keys: string[]; // as `keyName` returns them
  action: string;
  help: string;
}

export const KEYS: readonly Key[] = [
  { keys: ["b", "p", "2"], action: "brush", help: "Brush" },
  { keys: ["e", "1"], action: "eraser", help: "Eraser: not annotated again (hold Alt with the brush)" },
  { keys: ["f", "4"], action: "fill", help: "Fill an enclosed area" },
  { keys: ["3"], action: "outline", help: "Outline: drag, or click corners; Enter or double click ends" },
  { keys: ["l", "5"], action: "pick", help: "Pick an object (or Ctrl+click)" },
  { keys: ["k"], action: "cut", help: "Cut an object along a line" },
  { keys: ["r"], action: "rectangle", help: "Rectangle: accept it, or make its rest background" },
  { keys: ["m", "n"], action: "new", help: "New object" },
  { keys: ["x"], action: "swap", help: "Paint background instead of the object, and back" },
  { keys: ["[", ","], action: "smaller", help: "Smaller brush" },
  { keys: ["]", "."], action: "larger", help: "Larger brush (or Alt+wheel)" },
  { keys: ["delete", "backspace"], action: "delete", help: "Delete the selected object" },
  { keys: ["j"], action: "merge", help: "Merge: then click the object to join to the selected one" },
  { keys: ["g"], action: "accept", help: "Accept the predicted object under the pointer" },
  { keys: ["shift+g"], action: "acceptView", help: "Accept all predicted objects on the screen" },
  { keys: ["ctrl+z"], action: "undo", help: "Undo" },
  { keys: ["ctrl+shift+z", "ctrl+y"], action: "redo", help: "Redo" },
  { keys: ["d", "pagedown"], action: "next", help: "Next image" },
  { keys: ["a", "pageup"], action: "previous", help: "Previous image" },
  { keys: ["arrowright"], action: "nextPlane", help: "Next section or frame" },
  { keys: ["arrowleft"], action: "previousPlane", help: "Previous section or frame" },
  { keys: ["v"], action: "hide", help: "Hide or show labels" },
  { keys: ["o"], action: "outlines", help: "Outlines only" },
  { keys: ["h"], action: "hidePrediction", help: "Hide or show the prediction" },
  { keys: ["u"], action: "doubt", help: "Show where the model is unsure" },
  { keys: ["c"], action: "contrast", help: "Automatic contrast" },
  { keys: ["i"], action: "invert", help: "Invert the image" },
  { keys: ["0"], action: "fit", help: "Whole image" },
  { keys: ["+", "="], action: "zoomIn", help: "Zoom in (or wheel)" },
  { keys: ["-"], action: "zoomOut", help: "Zoom out" },
  { keys: ["t"], action: "learn", help: "Start or pause learning" },
  { keys: ["enter"], action: "finish", help: "End an outline" },
  { keys: ["escape"], action: "cancel", help: "Cancel, or select nothing" },
  { keys: ["?", "shift+?"], action: "help", help: "This list" },
];

export interface Pressed {
  key: string;
  code: string;
  ctrlKey: boolean;
  metaKey: boolean;
  shiftKey: boolean;
}

// On keyboards where a bracket needs other keys, the place of the key counts.
const PLACES: Record<string, string> = { BracketLeft: "[", BracketRight: "]" };

export function keyName(event: Pressed): string {
  const key = PLACES[event.code] ?? event.key.toLowerCase();
  const letter = /^[a-z]$/.test(key) || key.length > 1;
  return (event.ctrlKey || event.metaKey ? "ctrl+" : "") + (event.shiftKey && letter ? "shift+" : "") + key;
}

export function actionOf(event: Pressed): string | undefined {
  const name = keyName(event);
  return KEYS.find((one) => one.keys.includes(name))?.action;
}
