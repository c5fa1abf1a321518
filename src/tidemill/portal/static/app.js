// What every page has: a word when the server does not answer, or the session has ended.
"use strict";
(() => {
  const line = document.getElementById("lost");
  const say = (text) => {
    line.textContent = text;
    line.hidden = !text;
  };
  document.body.addEventListener("htmx:sendError", () => say("The server does not answer. Trying again…"));
  document.body.addEventListener("htmx:responseError", (event) => {
    const status = event.detail.xhr.status;
    if (status === 401) say("This session has ended. Load the page again to sign in.");
    else if (status === 403) say("You may not see this any more. Load the page again to read which right is missing.");
    else if (status === 404) say("This is gone: it was deleted while the page was open.");
    else say(`The server answered with an error (${status}). Trying again…`);
  });
  document.body.addEventListener("htmx:afterOnLoad", (event) => {
    if (event.detail.xhr.status < 400) say("");
  });
  // A click elsewhere, or Escape, closes the list of workspaces.
  const menu = document.querySelector("details.switch");
  document.addEventListener("click", (event) => {
    if (menu && !menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (menu && menu.open && event.key === "Escape") {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
})();
