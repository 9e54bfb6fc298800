import { describe, expect, it } from "vitest";
import { costs, criticalPath, pieces, quantile, search } from "../src/explorer/analysis";
import { type Chunk, type ChunkHeader, DamagedChunk, decodeChunk, MARKS, Sequence } from "../src/explorer/chunk";
import { contrast, DARK, LIGHT, serviceOf } from "../src/explorer/colors";
import { firstAbove, IdTable } from "../src/explorer/columns";
import { finish, layoutFlame, layoutTimeline } from "../src/explorer/layout";
import { layoutDiff, layoutNodes, layoutSandwich, mergeTrace } from "../src/explorer/merged";
import { fit, levelAt, levelTops } from "../src/explorer/paint";
import { boxAt, density, type Scene, SceneMaker, visit } from "../src/explorer/scene";
import { Trace } from "../src/explorer/trace";
import { clamp, pan, ticks, zoom } from "../src/explorer/viewport";
import { count, duration, percent, plural } from "../src/shared/format";
import { isDark } from "../src/shared/theme";

const KINDS = ["span", "trace", "cell", "call", "serve", "map", "submit", "job", "put", "publish"];
const STATUSES = ["ok", "error", "cancelled", "open", "lost"];
const BASE = 1_700_000_000_123_456_789n;

interface Made {
  name: string;
  start: number;
  /** -1: open. */
  end: number;
  parent?: number;
  thread?: number;
  kind?: string;
  status?: string;
  marks?: Partial<Record<(typeof MARKS)[number], number>>;
}

interface Sampled {
  span: number;
  time: number;
  wall: number;
  stack: string[];
  thread?: number;
}

/** Chunks as the kernel would send them; ids are numbers from 1. `cut` splits the spans in two chunks. */
function chunks(spans: Made[], samples: Sampled[] = [], cut = spans.length, length = 1000): Chunk[] {
  const names = [...new Set(spans.map((span) => span.name))];
  const frames = [...new Set(samples.flatMap((sample) => sample.stack))];
  const parts = [spans.slice(0, cut), spans.slice(cut)].filter((part, at) => part.length || !at);
  return parts.map((part, at) => {
    const n = part.length;
    const u64 = (values: bigint[]) => {
      const array = new BigUint64Array(values.map((value) => BigInt.asUintN(64, value)));
      return new Uint32Array(array.buffer);
    };
    const first = at === 0 ? 0 : cut;
    const marks = part.flatMap((span, row) => Object.entries(span.marks ?? {}).map(([key, ns]) => [row, MARKS.indexOf(key as never), ns] as const));
    const last = at === parts.length - 1;
    const stacks = samples.flatMap((sample) => sample.stack.map((frame, depth) => [depth ? -2 : -1, frames.indexOf(frame)] as const));
    let node = -1;
    const ends: number[] = [];
    const ups: number[] = [];
    for (const sample of samples) {
      sample.stack.forEach((_, depth) => {
        ups.push(depth ? node : -1);
        node++;
      });
      ends.push(node);
    }
    return {
      run: 1, seq: at, live: !last, more: !last, length, notes: [],
      ...(at === 0 ? { head: { title: "made", trace_id: "0", base: String(BASE), kinds: KINDS, statuses: STATUSES } } : {}),
      names: at === 0 ? names : [],
      processes: at === 0 ? [["w0", "here", 1, "w0"], ["w1", "here", 2, "w1"]] : [],
      threads: at === 0 ? [[0, "MainThread", 0], [1, "MainThread", 5]] : [],
      frames: last ? frames.map((name) => [name, `${name}.py`, 3, 1, /^(znb|lib)/.exec(name)?.[0].replace("lib", "library") ?? "user"]) : [],
      spans: n, open: 0, marks: marks.length, samples: last ? samples.length : 0, nodes: last ? stacks.length : 0,
      rows: {
        id: u64(part.map((_, row) => BigInt(first + row + 1))),
        parent: u64(part.map((span) => BigInt((span.parent ?? -1) + 1))),
        start: u64(part.map((span) => BASE + BigInt(span.start + (span.thread ? 5 : 0)))),
        end: u64(part.map((span) => (span.end < 0 ? 0n : BASE + BigInt(span.end + (span.thread ? 5 : 0))))),
        name: Uint32Array.from(part.map((span) => names.indexOf(span.name))),
        kind: Uint8Array.from(part.map((span) => KINDS.indexOf(span.kind ?? "span"))),
        status: Uint8Array.from(part.map((span) => STATUSES.indexOf(span.status ?? "ok"))),
        thread: Uint32Array.from(part.map((span) => span.thread ?? 0)),
      },
      mark: marks.length ? { row: Uint32Array.from(marks.map((mark) => mark[0])), key: Uint8Array.from(marks.map((mark) => mark[1])), ns: Float64Array.from(marks.map((mark) => mark[2])) } : null,
      sample: last && samples.length ? {
        span: u64(samples.map((sample) => BigInt(sample.span + 1))), time: u64(samples.map((sample) => BASE + BigInt(sample.time))),
        wall: Uint32Array.from(samples.map((sample) => sample.wall)), cpu: Uint32Array.from(samples.map((sample) => sample.wall / 2)),
        thread: Uint32Array.from(samples.map((sample) => sample.thread ?? 0)), stack: Uint32Array.from(ends),
      } : null,
      node: last && stacks.length ? { up: Int32Array.from(ups), frame: Uint32Array.from(stacks.map((stack) => stack[1])) } : null,
    } as Chunk; // prettier-ignore
  });
}

function made(spans: Made[], samples: Sampled[] = [], cut = spans.length, length = 1000): Trace {
  const all = chunks(spans, samples, cut, length);
  const trace = new Trace(all[0]!.head!);
  for (const chunk of all) trace.append(chunk);
  return trace;
}

const FAMILY: Made[] = [
  { name: "root", start: 0, end: 1000 },
  { name: "a", start: 100, end: 400, parent: 0 },
  { name: "b", start: 500, end: 900, parent: 0, status: "error" },
  { name: "a", start: 550, end: 650, parent: 2 },
  { name: "c", start: 120, end: 180, parent: 1, thread: 1 },
];

/** What stands on each level, left to right. */
function levels(scene: Scene, name: (item: number) => string): string[][] {
  return Array.from({ length: scene.first.length - 1 }, (_, level) =>
    [...scene.item.slice(scene.first[level], scene.first[level + 1])].map(name),
  );
}

describe("chunks", () => {
  const header: ChunkHeader = {
    run: 1, seq: 0, live: true, more: false, length: 1, notes: [], names: [], processes: [], threads: [], frames: [],
    spans: 1, open: 1, marks: 0, samples: 0, nodes: 0,
  }; // prettier-ignore
  const buffers = [16, 16, 16, 16, 8, 2, 2, 8].map((bytes) => new ArrayBuffer(bytes));

  it("are taken apart, also from views that are not aligned", () => {
    const shifted = new ArrayBuffer(17);
    new DataView(shifted).setUint32(1, 7, true);
    const chunk = decodeChunk(header, [new DataView(shifted, 1), ...buffers.slice(1)]);
    expect(chunk.rows!.id[0]).toBe(7);
    expect(chunk.sample).toBeNull();
  });

  it("whose buffers do not fit are refused", () => {
    expect(() => decodeChunk(header, buffers.slice(0, 3))).toThrow(DamagedChunk);
    expect(() => decodeChunk(header, [...buffers.slice(0, 7), new ArrayBuffer(4)])).toThrow(/expected 8 bytes, got 4/);
  });

  it("that do not follow are ignored, and a new run is asked for once", () => {
    let asked = 0;
    const sequence = new Sequence(() => asked++);
    expect(sequence.accepts({ run: 1, seq: 3 })).toBe(false); // came late
    expect(asked).toBe(1);
    expect(sequence.accepts({ run: 2, seq: 0 })).toBe(true);
    expect(sequence.accepts({ run: 2, seq: 1 })).toBe(true);
    expect(sequence.accepts({ run: 2, seq: 3 })).toBe(false);
    expect(sequence.accepts({ run: 2, seq: 2 })).toBe(false);
    expect(asked).toBe(2);
    expect(sequence.accepts({ run: 3, seq: 0 })).toBe(true);
    expect(sequence.accepts({ run: 2, seq: 4 })).toBe(false); // of a run that is over
    expect(asked).toBe(2);
  });
});

describe("a trace", () => {
  it("has exact times, though they are larger than numbers hold, and clocks' offsets taken off", () => {
    const trace = made(FAMILY);
    expect([...trace.start.slice(0, 5)]).toEqual([0, 100, 500, 550, 120]);
    expect(trace.took(4)).toBe(60);
  });

  it("finds parents that come later, in another chunk", () => {
    const spans: Made[] = [{ name: "child", start: 10, end: 20, parent: 1 }, { name: "root", start: 0, end: 100 }];
    const trace = made(spans, [], 1);
    expect([...trace.parent.slice(0, 2)]).toEqual([1, -1]);
    expect(trace.children().roots).toEqual([1]);
  });

  it("keeps the row of a span that was open and ends", () => {
    const open: Made[] = [{ name: "root", start: 0, end: -1, status: "open" }];
    const trace = made(open);
    expect(trace.end[0]).toBe(Infinity);
    expect(trace.took(0)).toBe(1000);
    trace.append({ ...chunks([{ name: "root", start: 0, end: 700 }])[0]!, names: [], processes: [], threads: [] });
    expect(trace.size).toBe(1);
    expect(trace.took(0)).toBe(700);
    expect(trace.statusOf(0)).toBe("ok");
  });

  it("breaks circles that damaged data have", () => {
    const trace = made([{ name: "a", start: 0, end: 10, parent: 1 }, { name: "b", start: 0, end: 10, parent: 0 }]);
    expect(trace.children().roots.length).toBe(1);
    expect(trace.path(0).length).toBeLessThan(3);
  });

  it("knows what no child covers", () => {
    expect([...made(FAMILY).selfTimes()]).toEqual([300, 240, 300, 100, 60]);
  });

  it("sorts what comes in parts as if it came at once", () => {
    const spans: Made[] = Array.from({ length: 300 }, (_, n) => ({ name: `${n}`, start: (n * 7919) % 293, end: 2000 }));
    const [parts, whole] = [made(spans, [], 100), made(spans)];
    expect([...parts.byStart()].map((row) => parts.start[row])).toEqual([...whole.byStart()].map((row) => whole.start[row]));
  });

  it("finds rows by 64-bit ids", () => {
    const table = new IdTable();
    for (let n = 0; n < 5000; n++) table.add((n * 2654435761) >>> 0, n % 3);
    for (let n = 0; n < 5000; n++) expect(table.find((n * 2654435761) >>> 0, n % 3)).toBe(n);
    expect(table.find(1, 77)).toBe(-1);
    expect(table.hex(1)).toBe("000000019e3779b1");
    expect([table.row("000000019e3779b1"), table.row("0000000100000000")]).toEqual([1, -1]);
  });
});

describe("samples", () => {
  const samples: Sampled[] = [
    { span: 1, time: 120, wall: 20, stack: ["main", "znb.call", "work", "inner"] },
    { span: 1, time: 140, wall: 20, stack: ["main", "znb.call", "work", "inner"] },
    { span: 1, time: 160, wall: 20, stack: ["main", "work", "other"] },
  ];

  it("become boxes: one for each stretch in a function, without znb's own and without what all stacks share", () => {
    const trace = made(FAMILY, samples);
    const boxes = trace.samples.boxes(trace.names, trace.name, trace.start, (row) => trace.endOf(row));
    expect(boxes.map((box) => [trace.samples.functions[box.function]![0], box.depth, box.start, box.end])).toEqual([
      ["work", 1, 100, 160],
      ["inner", 2, 100, 140],
      ["other", 2, 140, 160],
    ]);
    expect(boxes[1]!.cpu).toBe(20);
  });

  it("end where znb was called, and go on where it calls back", () => {
    const trace = made(FAMILY, [
      { span: 1, time: 120, wall: 20, stack: ["main", "znb.map", "lib.select"] },
      { span: 1, time: 140, wall: 20, stack: ["main", "lib.sort", "znb.map", "lib.call", "key"] },
    ]);
    const boxes = trace.samples.boxes(trace.names, trace.name, trace.start, (row) => trace.endOf(row));
    expect(boxes.map((box) => [trace.samples.functions[box.function]![0], box.start])).toEqual([["main", 100], ["lib.sort", 120], ["key", 120]]);
  });

  it("leave out what runs a notebook's cells", () => {
    const trace = made(FAMILY, [
      { span: 1, time: 120, wall: 20, stack: ["x/IPython/run", "lib.exec", "cell", "inner"] },
      { span: 1, time: 140, wall: 20, stack: ["x/IPython/run", "lib.exec", "cell", "other"] },
      { span: 1, time: 160, wall: 20, stack: ["x/ipykernel/loop"] },
    ]);
    const boxes = trace.samples.boxes(trace.names, trace.name, trace.start, (row) => trace.endOf(row));
    expect(boxes.map((box) => trace.samples.functions[box.function]![0])).toEqual(["cell", "inner", "other"]);
  });

  it("leave out the function that the span is named after", () => {
    const spans: Made[] = [{ name: "work", start: 100, end: 200 }];
    const trace = made(spans, samples.map((sample) => ({ ...sample, span: 0 })));
    const boxes = trace.samples.boxes(trace.names, trace.name, trace.start, (row) => trace.endOf(row));
    expect(boxes.map((box) => trace.samples.functions[box.function]![0])).toEqual(["inner", "other"]);
  });

  it("divide a span's own time and never add to it", () => {
    const trace = made(FAMILY, samples.map((sample) => ({ ...sample, wall: 2000 })));
    const nodes = mergeTrace(trace, true);
    expect(nodes.total[0]).toBeCloseTo(1000);
    const name = (key: number) => (key >= 0 ? trace.names[key]! : trace.samples.functions[~key]![0]);
    const inner = nodes.key.findIndex((key) => name(key) === "inner");
    expect(nodes.path(inner).map((node) => name(nodes.key[node]!))).toEqual(["root", "a", "work", "inner"]);
  });
});

describe("layouts", () => {
  const label = (trace: Trace) => (item: number) => (item < 0 ? "~" : trace.nameOf(item));

  it("put callees below callers, in time", () => {
    const trace = made(FAMILY);
    expect(levels(finish(layoutFlame(trace, [])), label(trace))).toEqual([["root"], ["a", "b"], ["c", "a"]]);
  });

  it("put what overlaps on the next free level", () => {
    const trace = made([{ name: "root", start: 0, end: 100 }, { name: "x", start: 10, end: 60, parent: 0 }, { name: "y", start: 20, end: 50, parent: 0 }, { name: "z", start: 70, end: 80, parent: 0 }]);
    expect(levels(finish(layoutFlame(trace, [])), label(trace))).toEqual([["root"], ["x", "z"], ["y"]]);
  });

  it("have a lane for each thread", () => {
    const trace = made(FAMILY);
    const scene = finish(layoutTimeline(trace, []));
    expect(scene.lanes.map((lane) => [lane.label, lane.level, lane.levels])).toEqual([["w0", 0, 3], ["w1", 3, 1]]);
    expect(levels(scene, label(trace))).toEqual([["root"], ["a", "b"], ["a"], ["c"]]);
  });

  it("hold their invariants whatever the spans: boxes of a level ascend and do not overlap", () => {
    let seed = 1;
    const random = (n: number) => (seed = (seed * 48271) % 2147483647) % n;
    for (let round = 0; round < 30; round++) {
      const spans: Made[] = [{ name: "root", start: 0, end: 1000 }];
      for (let n = 1; n < 60; n++) {
        const parent = random(spans.length);
        const start = spans[parent]!.start + random(50);
        spans.push({ name: `n${random(6)}`, start, end: start + 1 + random(200), parent, thread: random(2) });
      }
      const trace = made(spans, [], 1 + random(50));
      for (const scene of [finish(layoutFlame(trace, [])), finish(layoutTimeline(trace, []))]) {
        expect([...scene.item].sort((a, b) => a - b)).toEqual(spans.map((_, row) => row));
        for (let level = 0; level + 1 < scene.first.length; level++) {
          for (let at = scene.first[level]! + 1; at < scene.first[level + 1]!; at++) expect(scene.start[at]!).toBeGreaterThanOrEqual(scene.end[at - 1]!);
        }
      }
      const merged = layoutNodes(mergeTrace(trace, false));
      expect(merged.x1).toBeCloseTo([...trace.selfTimes()].reduce((sum, own) => sum + own, 0));
    }
  });

  it("merge call paths, the heaviest first", () => {
    const trace = made(FAMILY);
    const nodes = mergeTrace(trace, false);
    const scene = layoutNodes(nodes);
    expect(levels(scene, (node) => `${trace.names[nodes.key[node]!]} ${nodes.total[node]}`)).toEqual([["root 1000"], ["b 400", "a 300"], ["a 100", "c 60"]]);
  });

  it("show callers above and callees below one name", () => {
    const trace = made(FAMILY);
    const nodes = mergeTrace(trace, false);
    const { scene, callees, callers, focus } = layoutSandwich(nodes, trace.names.indexOf("a"));
    const text = (item: number) => {
      const [side, node] = item < callees.size ? [callees, item] : [callers, item - callees.size];
      return `${trace.names[side.key[node]!]} ${side.total[node]}`;
    };
    expect(focus).toBe(2);
    expect(levels(scene, text)).toEqual([["root 100"], ["root 300", "b 100"], ["a 400"], ["c 60"]].map((level) => expect.arrayContaining(level)));
    expect(scene.x1).toBe(400);
  });

  it("compare two traces", () => {
    const totals = (own: number) => ({ calls: 1, total: own, own });
    const diff = layoutDiff([
      { path: ["root", "gone"], before: totals(50), after: null },
      { path: ["root"], before: totals(10), after: totals(10) },
      { path: ["root", "new"], before: null, after: totals(70) },
    ]);
    expect(diff.scene.x1).toBe(130);
    expect(diff.before[0]).toBe(60);
    expect(diff.after[0]).toBe(80);
  });
});

describe("scenes", () => {
  const crowd = () => {
    const maker = new SceneMaker(10_000);
    for (let n = 0; n < 10_000; n++) maker.add(0, n, n + 0.9, n, n === 5000);
    return maker.make("time", 0, 10_000);
  };

  it("draw crowds as one, and lose no failure in them", () => {
    const drawn: [number, number][] = [];
    const scene = crowd();
    let bad = 0;
    visit(scene, 0, 0, 10_000, 100, (from, to) => {
      drawn.push([from, to]);
      bad += scene.bad[to]! - scene.bad[from]!;
    });
    expect(drawn.length).toBeLessThan(210);
    expect(drawn[0]![0]).toBe(0);
    expect(drawn.at(-1)![1]).toBe(10_000);
    drawn.slice(1).forEach(([from], at) => expect(from).toBe(drawn[at]![1]));
    expect(bad).toBe(1);
  });

  it("draw only what is seen, each by itself when it is wide enough", () => {
    const drawn: number[] = [];
    visit(crowd(), 0, 100.5, 103.2, 0.01, (from, to) => {
      expect(to - from).toBe(1);
      drawn.push(from);
    });
    expect(drawn).toEqual([100, 101, 102, 103]);
  });

  it("find what is pointed at", () => {
    const scene = crowd();
    expect(boxAt(scene, 0, 42.5, 0)).toBe(42);
    expect(boxAt(scene, 0, 42.95, 0)).toBe(-1);
    expect(boxAt(scene, 0, 42.95, 0.06)).toBe(42);
    expect(boxAt(scene, 1, 42.5, 0)).toBe(-1);
  });

  it("are summed up for the minimap", () => {
    const { busy, bad } = density(crowd(), 10);
    for (const part of busy) expect(part).toBeCloseTo(0.9);
    expect([...bad]).toEqual([0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
  });

  it("have levels below their lanes' headings", () => {
    const tops = levelTops(finish(layoutTimeline(made(FAMILY), [])));
    expect([...tops.slice(0, 4)]).toEqual([18, 37, 56, 93]);
    expect(levelAt(tops, 40)).toBe(1);
    expect(levelAt(tops, 80)).toBe(-1);
  });
});

describe("analysis", () => {
  it("sums up names", () => {
    const trace = made(FAMILY);
    const found = costs(trace).find((cost) => trace.names[cost.name] === "a")!;
    expect(found).toMatchObject({ calls: 2, total: 400, own: 340, p50: 100, p99: 300, max: 300, errors: 0, row: 1 });
    expect(quantile(Float64Array.from([1, 2, 3, 4]), 0.5)).toBe(2);
    expect(quantile(new Float64Array(0), 0.5)).toBe(0);
  });

  it("counts an exception once, where it was raised, and names what was cancelled", () => {
    const trace = made([
      { name: "cell", start: 0, end: 100, status: "error" },
      { name: "submit", start: 10, end: 90, parent: 0, status: "error" },
      { name: "job", start: 20, end: 80, parent: 1, status: "error" },
      { name: "sleep", start: 20, end: 80, parent: 0, status: "cancelled" },
    ]);
    expect(trace.failed).toBe(1);
    expect([0, 3].map((row) => trace.labelOf(row))).toEqual(["cell", "sleep (cancelled)"]);
    expect(made([{ name: "a", start: 0, end: 1 }]).failed).toBe(0);
  });

  it("searches by name, expression, worker, kind and status", () => {
    const trace = made(FAMILY);
    const rows = (query: string) => [...(search(trace, query)?.rows ?? [])].flatMap((hit, row) => (hit ? [row] : []));
    expect(rows("A")).toEqual([1, 3]);
    expect(rows("/^[ab]$/")).toEqual([1, 2, 3]);
    expect(rows("/[/")).toEqual([]);
    expect(rows("worker:w1")).toEqual([4]);
    expect(rows("status:err")).toEqual([2]);
    expect(rows("kind:span a")).toEqual([1, 3]);
    expect(search(trace, "  ")).toBeNull();
    expect(search(trace, "/(/")!.wrong).toBe("/(/");
    expect(search(trace, "/b+/ c")!.wrong).toBe("");
    // What is below a match counts once: b's 400 and a's 300 of 1000.
    expect(search(trace, "/^[ab]$/")!.share).toBeCloseTo(0.7);
  });

  it("finds the critical path", () => {
    const trace = made([
      { name: "root", start: 0, end: 1000 },
      { name: "short", start: 100, end: 300, parent: 0 },
      { name: "long", start: 100, end: 800, parent: 0 },
      { name: "leaf", start: 400, end: 700, parent: 2 },
    ]);
    expect(criticalPath(trace).map(({ row, start, end }) => [trace.nameOf(row), start, end])).toEqual([
      ["root", 0, 100], ["long", 100, 400], ["leaf", 400, 700], ["long", 700, 800], ["root", 800, 1000],
    ]); // prettier-ignore
  });

  it("takes a call to pieces, from both ends", () => {
    const trace = made([
      { name: "call f", start: 0, end: 100, kind: "call", marks: { encoded_ns: 5, sent_ns: 10, replied_ns: 90, decoding_ns: 92 } },
      { name: "f", start: 20, end: 80, kind: "serve", parent: 0, thread: 1, marks: { taken_ns: 5, decoded_ns: 10, ran_ns: 50 } },
    ]);
    expect(pieces(trace, 0).map((piece) => `${piece.name} ${piece.end - piece.start}`)).toEqual([
      "encode 5", "send 5", "transfer 10", "queue 5", "decode 5", "run 40", "encode 10", "reply 10", "take 2", "decode 8",
    ]); // prettier-ignore
    expect(pieces(made(FAMILY), 0)).toEqual([]);
  });

  it("knows a call's service", () => {
    expect([serviceOf("call rank.top"), serviceOf("rank.top"), serviceOf("load")]).toEqual(["rank", "rank", ""]);
  });
});

describe("what is shown", () => {
  it("keeps within the whole when it zooms and pans", () => {
    const whole = { x0: 0, x1: 100 };
    expect(zoom(whole, 0.5, 0.25)).toEqual({ x0: 12.5, x1: 62.5 });
    expect(clamp(pan({ x0: 80, x1: 100 }, 1), whole, 1)).toEqual({ x0: 80, x1: 100 });
    expect(clamp({ x0: 40, x1: 40.001 }, whole, 1)).toEqual({ x0: 40, x1: 41 });
    expect(ticks(0, 1000, 5)).toEqual([0, 200, 400, 600, 800, 1000]);
    expect(ticks(0, 0, 5)).toEqual([]);
  });

  it("has colours that can be read", () => {
    for (const palette of [LIGHT, DARK]) {
      for (const fill of [...palette.hues, ...palette.slower, ...palette.faster]) expect(contrast(fill, palette.text), fill).toBeGreaterThan(4.5);
      expect(contrast(palette.failed, palette.failedText)).toBeGreaterThan(4.5);
      expect(contrast(palette.sampled, palette.sampledText)).toBeGreaterThan(4.5);
      expect(contrast(palette.dim, palette.dimText)).toBeGreaterThan(4.5);
      expect(contrast(palette.back, palette.axis)).toBeGreaterThan(4.5);
      expect(contrast(palette.lane, palette.axis)).toBeGreaterThan(4.5);
    }
  });

  it("is written as people read it", () => {
    expect([0, 12, 999.9, 1234, 5.6e6, 7.89e9, 1.5e12].map(duration)).toEqual(["0 ns", "12 ns", "1 µs", "1.23 µs", "5.6 ms", "7.89 s", "1500 s"]);
    expect([count(1234567), percent(0.123), percent(0.0004), percent(0), plural(1, "span"), plural(2, "span")]).toEqual(["1\u202f234\u202f567", "12 %", "<0.1 %", "0 %", "1 span", "2 spans"]);
    expect([fit("a long label", 200, 6), fit("a long label", 50, 6), fit("a long label", 12, 6)]).toEqual(["a long label", "a long…", ""]);
    expect([isDark("rgb(17, 17, 17)"), isDark("rgb(250,250,250)"), isDark("rgba(0, 0, 0, 0)"), isDark("")]).toEqual([true, false, null, null]);
    expect(firstAbove(Float64Array.from([1, 2, 3]), 2, 0, 3)).toBe(2);
  });
});
