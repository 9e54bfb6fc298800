import { describe, expect, it } from "vitest";
import { figures, History, KEPT, type Look, since, size, sparkline, summary, type Worker } from "../src/panel/rows";

const worker = (name: string, more: Partial<Worker> = {}): Worker => ({
  name, state: "idle", pid: 1, host: "h", runs: "", seconds: 0, queued: 0, done: 0, failed: 0, cancelled: 0, restarts: 0, memory: 1e6, cpu: 0.5, ...more,
});
const look = (...workers: Worker[]): Look => ({ name: "c", workers });

describe("History", () => {
  it("keeps a minute, and forgets workers that are gone", () => {
    const history = new History();
    for (let i = 0; i < KEPT + 5; i++) history.add(look(worker("w0", { cpu: i }), worker("w1")));
    expect(history.cpu("w0")).toHaveLength(KEPT);
    expect(history.cpu("w0").at(-1)).toBe(KEPT + 4);
    history.add(look(worker("w0")));
    expect(history.memory("w1")).toEqual([]);
  });

  it("begins with what the kernel has seen", () => {
    const history = new History();
    history.add({ ...look(worker("w0")), history: { w0: [[0.1, 5], [0.2, 6]] } });
    expect([history.cpu("w0"), history.memory("w0")]).toEqual([[0.1, 0.2], [5, 6]]);
  });
});

describe("sparkline", () => {
  it("has the latest value at the right, and stays in its box", () => {
    expect(sparkline([1], 1, 48, 18)).toBe("");
    const path = sparkline([0, 5, 1], 1, 48, 18);
    expect(path).toMatch(/^M47\.2 17\.0L47\.6 1\.0L48\.0 1\.0$/);
    expect(sparkline([0, 0], 0, 48, 18)).not.toContain("NaN");
  });
});

describe("words", () => {
  it("for sizes and times", () => {
    expect([size(0), size(33_400_000), size(1.26e9), size(64e9)]).toEqual(["", "33 MB", "1.3 GB", "64 GB"]);
    expect([0.26, 9.99, 59.9, 61, 3725].map(since)).toEqual(["0.3 s", "10.0 s", "59 s", "1:01", "1:02:05"]);
  });

  it("for jobs that ended", () => {
    const said = (more: Partial<Worker>) => figures(worker("w0", more))[4];
    expect(said({ done: 5 })).toBe("5");
    expect(said({ done: 5, cancelled: 1 })).toBe("5 (1 cancelled)");
    expect(said({ done: 5, failed: 2, cancelled: 1 })).toBe("5 (2 failed, 1 cancelled)");
    expect(said({ done: null, failed: null, cancelled: null })).toBe("");
  });

  it("for the whole cluster", () => {
    expect(summary([worker("w0")])).toBe("1 worker");
    expect(summary([worker("w0"), worker("w1", { state: "busy" }), worker("w2", { state: "busy" })])).toBe("3 workers, 2 busy");
  });
});
