import { expect, it } from "vitest";
import { pieces } from "../src/explorer/analysis";
import { chunkOf, PageHost, type TraceDocument } from "../src/explorer/page";
import { Trace } from "../src/explorer/trace";

const DOCUMENT: TraceDocument = {
  title: "saved", trace_id: "abc", length_ns: 9_000_000_000, notes: ["w1 is gone"],
  processes: [["k0", "", "here", 7], ["k1", "w0", "there", 8]],
  kinds: ["span", "trace", "cell", "call", "serve"], statuses: ["ok", "error", "cancelled", "open", "lost"],
  strings: ["root", "call f", "f"], threads: [[0, 1, "MainThread"], [1, 2, "znb-service"]],
  spans: {
    id: ["ffffffff00000001", "0000000100000002", "0000000000000003"], parent: ["", "ffffffff00000001", "0000000100000002"],
    start: [0, 1_000, 5_000_000_000], end: [9_000_000_000, -1, 6_000_000_000], name: [0, 1, 2], kind: [1, 3, 4], status: [0, 3, 0],
    thread: [0, 0, 1], attributes: { 2: { taken_ns: 10, rows: 3 } }, events: {},
  },
  frames: [["work", "cell.py", 3, 1, "user"]], stacks: { parent: [-1], frame: [0] }, sample_threads: [[0, 1, "MainThread"]],
  samples: { span: ["ffffffff00000001"], time: [10_000_000], wall: [10_000_000], cpu: [0], thread: [0], stack: [0] },
}; // prettier-ignore

it("a saved document is the trace that it was", () => {
  const chunk = chunkOf(DOCUMENT);
  const trace = new Trace(chunk.head!);
  trace.append(chunk);
  expect([...trace.parent.slice(0, 3)]).toEqual([-1, 0, 1]);
  expect([...trace.start.slice(0, 3)]).toEqual([0, 1_000, 5_000_000_000]);
  expect([...trace.end.slice(0, 3)]).toEqual([9_000_000_000, Infinity, 6_000_000_000]);
  expect(trace.ids.hex(1)).toBe("0000000100000002");
  expect(trace.processes.map((process) => process[3])).toEqual(["pid 7", "w0"]);
  expect(pieces(trace, 2)[0]).toEqual({ name: "queue", start: 5_000_000_000, end: 5_000_000_010 });
  const boxes = trace.samples.boxes(trace.names, trace.name, trace.start, (row) => trace.endOf(row));
  expect(boxes).toMatchObject([{ row: 0, depth: 1, start: 0, end: 10_000_000, cpu: 0 }]);
  expect([trace.live, trace.length, trace.notes]).toEqual([false, 9_000_000_000, ["w1 is gone"]]);
});

it("a saved document tells what the sampler did not see", async () => {
  const host = new PageHost({ ...DOCUMENT, unseen: { 2: "412 ms not seen" } });
  expect((await host.details("0000000000000003")).attributes).toEqual({ "not sampled": "412 ms not seen", taken_ns: 10, rows: 3 });
  expect((await host.details("ffffffff00000001")).attributes).toEqual({});
});
