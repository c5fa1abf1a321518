// A shell in a container: a line goes in, text comes back. For more, there is the command line.
"use strict";
(() => {
  const MOST = 200_000; // characters kept
  const form = document.getElementById("shell");
  if (!form) return;
  const out = document.getElementById("shell-out");
  const { open, interrupt, command, container } = form.elements;
  const ESCAPES = /\u001b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;
  let socket = null;

  const write = (text) => {
    const shown = out.textContent + text.replace(ESCAPES, "").replace(/\r/g, "");
    out.textContent = shown.slice(-MOST);
    out.scrollTop = out.scrollHeight;
  };

  const ended = () => {
    socket = null;
    command.disabled = interrupt.disabled = true;
    container.disabled = false;
    open.textContent = "Open";
  };

  const start = () => {
    const address = new URL(form.dataset.line, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.searchParams.set("container", container.value);
    const line = (socket = new WebSocket(address));
    const decoder = new TextDecoder();
    line.binaryType = "arraybuffer";
    out.hidden = false;
    out.textContent = "";
    container.disabled = true;
    open.textContent = "Close";
    line.addEventListener("open", () => {
      line.send(JSON.stringify({ command: [], terminal: [24, 100], term: "dumb" }));
      command.disabled = interrupt.disabled = false;
      command.focus();
    });
    line.addEventListener("message", ({ data }) => {
      if (typeof data !== "string") {
        write(decoder.decode(new Uint8Array(data).subarray(1), { stream: true }));
        return;
      }
      const said = JSON.parse(data);
      write(said.error ? `\n${said.error.message}\n` : `\nIt ended with exit code ${said.exit}.\n`);
    });
    line.addEventListener("close", () => {
      if (!out.textContent) write("It could not be opened: the container does not run.\n");
      if (socket === line) ended();
    });
  };

  open.addEventListener("click", () => (socket ? socket.close() : start()));
  interrupt.addEventListener("click", () => socket && socket.send(new TextEncoder().encode("\u0003")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!socket || socket.readyState !== WebSocket.OPEN) return;
    socket.send(new TextEncoder().encode(`${command.value}\n`));
    command.value = "";
  });
})();
