// Whether the kernel that a widget came from is still the same one. JupyterLab and Notebook tell by the manager of the
// widget; elsewhere questions that are not answered tell.

const GONE = new Set(["dead", "restarting", "autorestarting", "terminating"]);
const LOOK_MS = 1000;

interface Kernel {
  status: string;
  statusChanged?: { connect(call: (sender: unknown, status: string) => void): unknown };
}

/** Calls `told` once, when the kernel is gone. Returns what stops it. */
export function whenGone(manager: unknown, told: () => void): () => void {
  const holder = manager as { kernel?: Kernel | null } | undefined;
  let watched: Kernel | null = null;
  const look = (status: string | undefined) => {
    if (status !== undefined && !GONE.has(status)) return;
    stop();
    told();
  };
  const watch = () => {
    const kernel = holder?.kernel;
    if (kernel && !watched) (watched = kernel).statusChanged?.connect((_, status) => watched && look(status));
    if (watched) look(kernel?.status);
  };
  const timer = setInterval(watch, LOOK_MS);
  const stop = () => {
    clearInterval(timer);
    watched = null;
  };
  watch();
  return stop;
}
