// A panel's figures: what is kept of them, and how they read.

export interface Worker {
  name: string;
  state: string;
  pid: number;
  host: string;
  runs: string;
  seconds: number;
  queued: number;
  done: number | null;
  failed: number | null;
  cancelled: number | null;
  restarts: number;
  memory: number;
  cpu: number;
}

export interface Look {
  name: string;
  where?: string;
  jobs?: string;
  ended?: boolean;
  workers: Worker[];
  history?: Record<string, [number, number][]>;
}

/** Looks that are kept: a minute of two a second. */
export const KEPT = 120;

/** CPU and memory of each worker over time. */
export class History {
  readonly #rows = new Map<string, [number, number][]>();

  add(look: Look): void {
    if (look.history) {
      this.#rows.clear();
      for (const [name, rows] of Object.entries(look.history)) this.#rows.set(name, [...rows]);
      return; // it has this look already
    }
    const names = new Set(look.workers.map((worker) => worker.name));
    for (const name of this.#rows.keys()) if (!names.has(name)) this.#rows.delete(name);
    for (const worker of look.workers) {
      const rows = this.#rows.get(worker.name) ?? [];
      rows.push([worker.cpu, worker.memory]);
      if (rows.length > KEPT) rows.splice(0, rows.length - KEPT);
      this.#rows.set(worker.name, rows);
    }
  }

  cpu(name: string): number[] {
    return (this.#rows.get(name) ?? []).map(([cpu]) => cpu);
  }

  memory(name: string): number[] {
    return (this.#rows.get(name) ?? []).map(([, memory]) => memory);
  }
}

/** The `d` of an SVG path: values from the left to the right of a box, the latest at its right edge. */
export function sparkline(values: number[], most: number, width: number, height: number): string {
  if (values.length < 2) return "";
  const step = width / (KEPT - 1);
  const start = width - (values.length - 1) * step;
  const y = (value: number) => height - 1 - (Math.min(value, most) / (most || 1)) * (height - 2);
  return values.map((value, i) => `${i ? "L" : "M"}${(start + i * step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
}

/** Bytes as people read them. */
export function size(bytes: number): string {
  if (!bytes) return "";
  return bytes < 999.5e6 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(bytes < 9.95e9 ? 1 : 0)} GB`;
}

/** Seconds as people read them: `3.2 s`, `45 s`, `2:05`, `3:04:05`. */
export function since(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const two = (n: number) => String(Math.floor(n)).padStart(2, "0");
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes}:${two(seconds % 60)}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
}

/** What the head says: `4 workers, 2 busy`. */
export function summary(workers: Worker[]): string {
  const counts = new Map<string, number>();
  for (const { state } of workers) counts.set(state, (counts.get(state) ?? 0) + 1);
  const states = [...counts].filter(([state]) => state !== "idle").map(([state, n]) => `${n} ${state}`);
  return [`${workers.length} worker${workers.length === 1 ? "" : "s"}`, ...states].join(", ");
}

/** Jobs that ended: with a value, and those that did not. */
function ended({ done, failed, cancelled }: Worker): string {
  const others = [failed && `${failed} failed`, cancelled && `${cancelled} cancelled`].filter(Boolean);
  return done === null ? "" : others.length ? `${done} (${others.join(", ")})` : String(done);
}

/** What a worker's row says: name, state, what runs, queued, done, CPU, memory. */
export function figures(worker: Worker): [string, string, string, string, string, string, string] {
  return [
    worker.name,
    worker.state + (worker.restarts ? ` ↻${worker.restarts}` : ""),
    worker.runs ? `${worker.runs} · ${since(worker.seconds)}` : "",
    worker.queued ? String(worker.queued) : "",
    ended(worker),
    `${Math.round(worker.cpu * 100)} %`,
    size(worker.memory),
  ];
}
