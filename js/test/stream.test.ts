import { describe, expect, it } from "vitest";
import { bytes, doubles, type Frame, Sync } from "../src/stream/frames";
import { align, bisect, labels, Lines, POINTS, visible } from "../src/stream/lines";
import { KEPT, levelOf, LogLines } from "../src/stream/loglines";
import { Rows } from "../src/stream/rows";

const frame = (content: Partial<Frame>): Frame => ({ number: 1, received: 0, dropped: 0, unreadable: 0, unfit: 0, ...content });
const array = (...values: number[]) => new Float64Array(values);

describe("Sync", () => {
  it("waits for a full frame, asks once, and goes on from it", () => {
    const sync = new Sync();
    expect(sync.take(7)).toBe("resync");
    expect(sync.take(8)).toBe("ignore");
    expect(sync.takeFull(9)).toBe("replace");
    expect(sync.take(9)).toBe("ignore");
    expect(sync.take(10)).toBe("add");
  });

  it("asks again after a later gap, and takes no old frame", () => {
    const sync = new Sync();
    sync.takeFull(1);
    expect(sync.take(2)).toBe("add");
    expect(sync.take(4)).toBe("resync");
    expect(sync.takeFull(2)).toBe("ignore");
    expect(sync.takeFull(6)).toBe("replace");
    expect(sync.take(8)).toBe("resync");
  });

  it("asks once more if nothing comes", () => {
    const sync = new Sync();
    const steps = Array.from({ length: 90 }, (_, i) => sync.take(i + 5));
    expect(steps.filter((step) => step === "resync")).toHaveLength(3);
  });
});

describe("buffers", () => {
  it("are read wherever they begin", () => {
    const whole = new Uint8Array(3 + 16);
    new DataView(whole.buffer).setFloat64(3, 1.5, true);
    new DataView(whole.buffer).setFloat64(11, -2, true);
    expect([...doubles(new DataView(whole.buffer, 3, 16))]).toEqual([1.5, -2]);
    expect(doubles(undefined)).toHaveLength(0);
    expect([...bytes(new DataView(whole.buffer, 1, 2))]).toEqual([0, 0]);
  });
});

describe("Lines", () => {
  const two = () => {
    const lines = new Lines();
    lines.add(frame({ x: "time", series: [[0, "loss", "w0"], [1, "loss", "w1"]], counts: [[0, 2], [1, 1]] }), array(1, 2, 1), array(10, 20, 30), true);
    return lines;
  };

  it("grow by frames and are replaced by full ones", () => {
    const lines = two();
    lines.add(frame({ counts: [[1, 2]] }), array(3, 4), array(1, 2), false);
    expect(lines.lines.get(1)!.length).toBe(3);
    expect(lines.extent()).toEqual([1, 4]);
    lines.add(frame({ series: [[0, "a", "w0"]], counts: [[0, 1]] }), array(9), array(9), true);
    expect(lines.lines.size).toBe(1);
    expect(lines.extent()).toEqual([9, 9]);
  });

  it("keep the latest points alone", () => {
    const lines = two();
    for (let i = 0; i < 50; i++) {
      const x = Float64Array.from({ length: 1000 }, (_, j) => 10 + i * 1000 + j);
      lines.add(frame({ counts: [[0, 1000]] }), x, x, false);
    }
    const line = lines.lines.get(0)!;
    expect(line.length).toBeLessThanOrEqual(2 * POINTS);
    expect(line.length).toBeGreaterThanOrEqual(POINTS);
    expect(line.y[line.length - 1]).toBe(50_009);
    expect(line.x.length).toBeLessThanOrEqual(2 * POINTS);
  });

  it("are sorted by x if they come otherwise", () => {
    const lines = two();
    lines.add(frame({ counts: [[0, 3]] }), array(1.5, 0, 7), array(1, 2, 3), false);
    const line = lines.lines.get(0)!;
    expect([...line.x.subarray(0, line.length)]).toEqual([0, 1, 1.5, 2, 7]);
    expect([...line.y.subarray(0, line.length)]).toEqual([2, 10, 1, 20, 3]);
  });

  it("ignore points of lines that are not known", () => {
    const lines = two();
    lines.add(frame({ counts: [[5, 1], [0, 1]] }), array(8, 9), array(8, 9), false);
    expect(lines.lines.get(0)!.y[2]).toBe(9);
  });

  it("have no extent without a point", () => {
    expect(new Lines().extent()).toBeNull();
  });
});

describe("visible", () => {
  const line = (n: number, y: (i: number) => number) => ({
    id: 0, name: "", source: "", length: n,
    x: Float64Array.from({ length: n }, (_, i) => i),
    y: Float64Array.from({ length: n }, (_, i) => y(i)),
  });

  it("is every point if they are few, and one more on each side", () => {
    expect(visible(line(10, (i) => i), 3, 5, 100)[0]).toEqual([2, 3, 4, 5]);
    expect(visible(line(10, (i) => i), -5, 50, 100)[0]).toHaveLength(10);
    expect(visible(line(0, (i) => i), 0, 1, 100)).toEqual([[], []]);
  });

  it("loses no peak, and no more than four points a stretch", () => {
    const [xs, ys] = visible(line(100_000, (i) => (i === 54_321 ? 1000 : i === 777 ? -1000 : Math.sin(i))), 0, 99_999, 100);
    expect(ys).toContain(1000);
    expect(ys).toContain(-1000);
    expect(xs.length).toBeLessThanOrEqual(4 * 102);
    expect(xs).toEqual([...xs].sort((a, b) => a - b));
    expect(new Set(xs).size).toBe(xs.length);
    expect([xs[0], xs[xs.length - 1]]).toEqual([0, 99_999]);
  });

  it("bisects", () => {
    const x = array(1, 2, 2, 3);
    expect([0, 1, 2, 2.5, 4].map((value) => bisect(x, 4, value))).toEqual([0, 0, 1, 3, 4]);
  });
});

describe("align", () => {
  it("puts lines over one x", () => {
    expect(align([[[1, 3], [10, 30]], [[2, 3], [200, 300]]])).toEqual([[1, 2, 3], [10, null, 30], [null, 200, 300]]);
    expect(align([])).toEqual([[]]);
  });
});

describe("labels", () => {
  const name = (pairs: [string, string][]) =>
    labels(pairs.map(([name, source], id) => ({ id, name, source, x: array(), y: array(), length: 0 })));

  it("say what tells the lines apart", () => {
    expect(name([["loss", "w0"]])).toEqual(["loss"]);
    expect(name([["loss", "w0"], ["loss", "w1"]])).toEqual(["w0", "w1"]);
    expect(name([["load.loss", "w0"], ["load.rate", "w0"]])).toEqual(["loss", "rate"]);
    expect(name([["load.loss", "w0"], ["load.rate", "w1"]])).toEqual(["loss · w0", "rate · w1"]);
    expect(name([["loss", "w0"], ["lost", "w0"]])).toEqual(["loss", "lost"]);
  });
});

describe("Rows", () => {
  const rows = () => {
    const made = new Rows();
    made.add(frame({ columns: ["file", "n"], rows: [["a", 1, "w0", "t", "b.py", 10], ["b", 2, "w1", "t", "a.py", 9], ["c", 3, "w1", "t", "c.py", null]] }), true);
    return made;
  };

  it("hold the latest of each key", () => {
    const made = rows();
    made.add(frame({ columns: ["file", "n"], rows: [["a", 4, "w0", "t", "z.py", 1]], gone: ["b"] }), false);
    expect(made.select("", null).map((row) => row.cells[3])).toEqual(["z.py", "c.py"]);
    made.add(frame({ columns: [], rows: [] }), true);
    expect(made.size).toBe(0);
  });

  it("are sorted by numbers as numbers, with nothing last", () => {
    const order = (down: boolean, column = 4) => rows().select("", { column, down }).map((row) => row.key);
    expect(order(false)).toEqual(["b", "a", "c"]);
    expect(order(true)).toEqual(["a", "b", "c"]);
    expect(order(false, 3)).toEqual(["b", "a", "c"]);
  });

  it("are filtered by all words", () => {
    expect(rows().select("W1 c.", null).map((row) => row.key)).toEqual(["c"]);
    expect(rows().select("nothing", null)).toEqual([]);
  });
});

describe("LogLines", () => {
  it("keep the latest, choose by level and search", () => {
    const log = new LogLines();
    log.add(frame({ lines: [[1, "w0", "t", "info", "one"], [2, "w0", "t", "warning", "Two"]], skipped: 3 }), false);
    expect(log.skipped).toBe(3);
    expect(log.select("warning", "").map((line) => line[4])).toEqual(["Two"]);
    expect(log.select("debug", "two")).toHaveLength(1);
    for (let i = 0; i < 60; i++) log.add(frame({ lines: Array.from({ length: 100 }, () => [1, "w", "t", "info", "x"] as const).map((line) => [...line]) }), false);
    expect(log.lines).toHaveLength(KEPT);
    log.add(frame({ lines: [] }), true);
    expect([log.lines.length, log.skipped]).toEqual([0, 0]);
  });

  it("know the usual names of levels", () => {
    expect(["CRITICAL", "error", "warn", "WARNING", "notice", "debug", "trace"].map((name) => levelOf(name.toLowerCase()))).toEqual(
      ["error", "error", "warning", "warning", "info", "debug", "debug"],
    );
  });
});
