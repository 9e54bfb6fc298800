// The explorer in a notebook: takes chunks from the kernel, asks it for details.

import type { AnyModel, RenderProps } from "@anywidget/types";
import { type ChunkHeader, decodeChunk, Sequence } from "./chunk";
import { Explorer } from "./explorer";
import { type Details, type Host, type Other, type Source } from "./host";
import { type Change } from "./merged";
import { keep } from "../shared/document";
import { whenGone } from "../shared/gone";
import { placeOf } from "../shared/settle";
import "./style.css";
import { Trace } from "./trace";

/** Milliseconds after which a question that is not answered is given up: a kernel that is busy answers later. */
const PATIENCE_MS = 8000;

const GONE = "The kernel is gone: what has come stays, details and sources cannot be asked for.";

interface State {
  cell: string;
  /** Tells widgets apart: each view has a model object of its own, which forgets its listeners with the view. */
  key: string;
}

/** What one widget has received: views come and go, it stays. */
class Receiver implements Host {
  trace: Trace | null = null;
  readonly views = new Set<Explorer>();
  readonly cell: string | null;
  /** What puts a view into the place of a picture: where displays are about to become pictures. */
  readonly places = new Map<HTMLElement, ReturnType<typeof placeOf>>();
  gone = false;
  readonly stop: () => void;
  readonly #elements = new Set<HTMLElement>();
  readonly #sequence = new Sequence(() => this.send({ kind: "resync" }));
  readonly #waiting = new Map<number, { done: (value: never) => void; failed: (error: Error) => void }>();
  #asked = 0;

  constructor(private readonly model: AnyModel<State>) {
    const cell = model.get("cell");
    this.cell = cell ? `#cell-id=${encodeURIComponent(cell)}` : null;
    model.on("msg:custom", (content: unknown, buffers: DataView[]) => this.#receive(content as Record<string, unknown>, buffers));
    this.stop = whenGone(model.widget_manager, () => {
      this.gone = true;
      this.#complain(GONE);
      keep(model.widget_manager, model.get("key"), null, () => this.#remember()); // one that was live has no end
    });
    this.send({ kind: "hello" });
  }

  /** Makes a view of it in an element. */
  open(el: HTMLElement): Explorer {
    const view = new Explorer(this);
    el.append(view.element);
    if (this.gone) view.complain(GONE);
    this.views.add(view);
    this.#elements.add(el);
    if (this.trace) view.show(this.trace);
    return view;
  }

  close(view: Explorer, el: HTMLElement): void {
    this.views.delete(view);
    this.#elements.delete(el);
    view.close();
  }

  send(content: Record<string, unknown>): void {
    try {
      this.model.send(content);
    } catch {
      this.#complain(GONE);
    }
  }

  details(id: string): Promise<Details> {
    return this.#ask({ kind: "details", id });
  }

  source(file: string, line: number): Promise<Source> {
    return this.#ask({ kind: "source", file, line });
  }

  others(): Promise<Other[]> {
    return this.#ask({ kind: "others" });
  }

  diff(id: string): Promise<Change[]> {
    return this.#ask({ kind: "diff", id });
  }

  selected(id: string | null): void {
    this.send({ kind: "select", id: id ?? "" });
  }

  #ask<T>(question: Record<string, unknown>): Promise<T> {
    if (this.gone) return Promise.reject(new Error("The kernel is gone: this can no longer be asked for."));
    const number = ++this.#asked;
    return new Promise<T>((done, failed) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(number);
        failed(new Error("The kernel has not answered: it is busy or gone. Select the span again."));
      }, PATIENCE_MS);
      this.#waiting.set(number, {
        done: (value) => {
          clearTimeout(timer);
          done(value);
        },
        failed,
      });
      this.send({ ...question, number });
    });
  }

  #receive(content: Record<string, unknown>, buffers: DataView[]): void {
    if (this.gone) return;
    this.#complain("");
    if (content["kind"] === "answer") {
      const waiting = this.#waiting.get(content["number"] as number);
      this.#waiting.delete(content["number"] as number);
      if (typeof content["error"] === "string") waiting?.failed(new Error(content["error"]));
      else waiting?.done(content["value"] as never);
      return;
    }
    if (content["kind"] === "settled") this.#remember();
    if (content["kind"] !== "chunk") return;
    const header = content as unknown as ChunkHeader;
    if (!this.#sequence.accepts(header)) return;
    try {
      const chunk = decodeChunk(header, buffers);
      if (header.head) this.trace = new Trace(header.head);
      this.trace!.append(chunk);
    } catch (error) {
      this.#complain(`What the kernel sent cannot be shown: ${(error as Error).message}`);
      return;
    }
    for (const view of this.views) view.show(this.trace!);
  }

  /** Notes where the views are: their displays are about to become pictures. */
  #remember(): void {
    for (const el of this.#elements) this.places.set(el, placeOf(el));
  }

  #complain(text: string): void {
    for (const view of this.views) view.complain(text);
  }
}

const receivers = new Map<string, Receiver>();

export default {
  initialize({ model }: { model: AnyModel<State> }): () => void {
    const key = model.get("key");
    const receiver = new Receiver(model);
    receivers.set(key, receiver);
    return () => {
      receiver.stop();
      receivers.delete(key);
    };
  },
  render({ model, el }: RenderProps<State>): () => void {
    const receiver = receivers.get(model.get("key"))!;
    const view = receiver.open(el);
    receiver.send({ kind: "mounted" });
    return () => {
      receiver.close(view, el);
      receiver.places.get(el)?.((host) => receiver.open(host));
      receiver.places.delete(el);
    };
  },
};
