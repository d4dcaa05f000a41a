// Edits on their way to the server: one after the other, and again after a failure, until all are on the disk.

/** An edit that the server has refused, and would refuse again. */
export class Refused extends Error {}

export const AGAIN_MS = 5000;

interface Waiting {
  work: () => Promise<void>;
  lasting: boolean;
}

export class Saving {
  private readonly waiting: Waiting[] = [];
  private running: Promise<void> | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private told = "";

  constructor(
    private readonly changed: () => void,
    private readonly say: (text: string) => void,
    private readonly againMs = AGAIN_MS,
  ) {}

  /** The number of edits that are not on the disk of the server. */
  get unsaved(): number {
    return this.waiting.length;
  }

  /** True while edits wait because the server has not taken them. */
  failing = false;

  /** Do this after all that waits. A work that does not last is given up if it fails, as is one that is refused. */
  add(work: () => Promise<void>, lasting = true): void {
    this.waiting.push({ work, lasting });
    this.changed();
    void this.again();
  }

  /** Try what waits, now. */
  again(): Promise<void> {
    clearTimeout(this.timer);
    this.running ??= this.run().finally(() => {
      this.running = null;
      this.changed();
      if (this.waiting.length > 0 && !this.failing) void this.again();
    });
    return this.running;
  }

  /** Wait until nothing is on its way; what has failed may still wait. */
  async idle(): Promise<void> {
    await this.running;
  }

  private async run(): Promise<void> {
    for (let next = this.waiting[0]; next; next = this.waiting[0]) {
      try {
        await next.work();
        this.failing = false;
        this.told = "";
      } catch (error) {
        const text = (error as Error).message;
        if (next.lasting && !(error instanceof Refused)) return this.later(text);
        this.say(text);
      }
      this.waiting.shift();
      this.changed();
    }
    this.failing = false;
  }

  private later(text: string): void {
    this.failing = true;
    if (text !== this.told) this.say(`Not saved yet; the page tries again: ${text}`);
    this.told = text;
    this.timer = setTimeout(() => void this.again(), this.againMs);
  }
}
