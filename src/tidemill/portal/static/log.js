// The log of a job: shown as it is written, from the server's event stream.
"use strict";
(() => {
  const MOST = 2_000_000; // characters kept per file; older ones are dropped from the page
  const section = document.getElementById("log");
  const panes = document.getElementById("log-panes");
  const tabs = document.getElementById("log-tabs");
  const state = document.getElementById("log-state");
  const empty = document.getElementById("log-empty");
  const follow = document.getElementById("log-follow");
  const files = new Map();
  let shown = "";
  let chosen = false;
  let scheduled = false;

  // Terminal colours are dropped; a carriage return starts its line again, as progress bars expect.
  const ESCAPES = /\u001b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;
  const plain = (text) => text.replace(/\r+\n/g, "\n").replace(/[^\n]*\r(?=[^\n])/g, "");

  class LogFile {
    constructor(path, element) {
      this.path = path;
      this.element = element;
      this.pre = element.querySelector("pre");
      this.last = document.createTextNode(""); // the line that has not ended
      this.size = 0;
      this.waiting = "";
      this.follows = true;
      const given = this.pre.textContent;
      this.pre.textContent = "";
      this.pre.append(this.last);
      if (given) this.add(given);
      this.pre.addEventListener("scroll", () => {
        this.follows = this.atEnd();
        offer();
      });
    }

    atEnd() {
      return this.pre.scrollTop + this.pre.clientHeight >= this.pre.scrollHeight - 12;
    }

    add(text) {
      this.waiting += text;
    }

    flush() {
      if (!this.waiting) return;
      let text = plain((this.last.data + this.waiting).replace(ESCAPES, ""));
      this.waiting = "";
      if (text.length > MOST) {
        text = text.slice(text.indexOf("\n", text.length - MOST) + 1);
        this.shorten();
      }
      const cut = text.lastIndexOf("\n") + 1;
      if (cut) {
        this.last.before(document.createTextNode(text.slice(0, cut)));
        this.size += cut;
      }
      this.last.data = text.slice(cut);
      while (this.size > MOST && this.pre.firstChild !== this.last) {
        this.size -= this.pre.firstChild.data.length;
        this.pre.firstChild.remove();
        this.shorten();
      }
      if (this.follows) this.toEnd();
    }

    shorten() {
      if (this.element.querySelector("p")) return;
      const note = document.createElement("p");
      note.className = "quiet";
      const link = document.createElement("a");
      link.href = `${section.dataset.raw}/${this.path.split("/").map(encodeURIComponent).join("/")}?limit=16777216`;
      link.textContent = "read the file from its beginning";
      note.append("Only the end is shown: ", link, ".");
      this.pre.before(note);
    }

    toEnd() {
      this.pre.scrollTop = this.pre.scrollHeight;
    }
  }

  const isOwn = (path) => path.startsWith("user_logs/");

  const offer = () => {
    const file = files.get(shown);
    follow.hidden = !file || file.follows;
  };

  const show = (path) => {
    shown = path;
    for (const [name, file] of files) file.element.hidden = name !== path;
    for (const tab of tabs.children) tab.setAttribute("aria-pressed", String(tab.dataset.path === path));
    const file = files.get(path);
    if (file.follows) file.toEnd();
    offer();
  };

  const fileOf = (path, element) => {
    let file = files.get(path);
    if (file) return file;
    if (!element) {
      element = document.createElement("div");
      element.className = "pane";
      const pre = document.createElement("pre");
      pre.tabIndex = 0;
      pre.setAttribute("role", "log");
      pre.setAttribute("aria-live", "off");
      pre.setAttribute("aria-label", path);
      element.append(pre);
      panes.append(element);
    }
    file = new LogFile(path, element);
    files.set(path, file);
    const tab = document.createElement("button");
    tab.type = "button";
    tab.dataset.path = path;
    tab.textContent = path.replace(/^(user_logs|azureml-logs)\//, "");
    tab.addEventListener("click", () => {
      chosen = true;
      show(path);
    });
    tabs.append(tab);
    tabs.hidden = files.size < 2;
    empty.hidden = true;
    // The job's own words come before those of the environment's build, unless the reader has chosen.
    const better = isOwn(path) && !isOwn(shown) && !chosen;
    show(shown && !better ? shown : path);
    return file;
  };

  const draw = () => {
    scheduled = false;
    for (const file of files.values()) file.flush();
  };
  const soon = () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(draw);
  };

  follow.addEventListener("click", () => {
    const file = files.get(shown);
    file.follows = true;
    file.toEnd();
    offer();
  });

  for (const element of panes.querySelectorAll(".pane")) fileOf(element.dataset.path, element);
  draw();
  for (const file of files.values()) file.toEnd();
  if (section.dataset.final === "true") return;

  let source = null;
  let resume = "";
  let ended = false;
  let told = 0;

  const refresh = () => {
    const top = document.getElementById("top");
    if (top && window.htmx) window.htmx.trigger(top, "refresh");
  };
  const changed = () => {
    clearTimeout(told);
    told = setTimeout(refresh, 30);
  };

  const open = () => {
    if (source || ended) return;
    source = new EventSource(section.dataset.stream + (resume ? `?after=${encodeURIComponent(resume)}` : ""));
    const on = (name, act) =>
      source.addEventListener(name, (event) => {
        resume = event.lastEventId;
        act(JSON.parse(event.data));
      });
    source.onopen = () => {
      state.textContent = "live";
    };
    source.onerror = () => {
      state.textContent = "connecting again…";
      if (source && source.readyState === EventSource.CLOSED) {
        close();
        setTimeout(open, 2000);
      }
    };
    on("log", (data) => {
      const file = fileOf(data.path);
      if (data.offset === 0 && (file.size || file.last.data || file.waiting)) file.add("\n── next attempt ──\n");
      file.add(data.text);
      soon();
    });
    on("timeline", changed);
    on("status", (data) => {
      document.title = `${data.display_name} (${data.status}) · Tidemill`;
      changed();
    });
    on("end", () => {
      ended = true;
      close();
      state.textContent = "";
      if (!files.size) empty.textContent = "The job wrote nothing to its log.";
      changed();
    });
  };
  const close = () => {
    if (source) source.close();
    source = null;
  };

  // A browser holds few connections to one server: hidden pages let go of theirs and go on where they were.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else open();
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  if (!document.hidden) open();
})();
