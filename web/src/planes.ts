// Sections and frames: the one that is opened first, and the word for one.

export interface Lengths {
  sections: number;
  frames: number;
}

/** The section to open: the one that is asked for, also the first; otherwise the middle. */
export const sectionToOpen = (sections: number, asked: number | null): number => asked ?? Math.floor(sections / 2);

/** What "complete" completes. */
export const planeWord = ({ sections, frames }: Lengths): string =>
  sections > 1 ? "section" : frames > 1 ? "frame" : "image";
