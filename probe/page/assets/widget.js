"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("widget-data").textContent);
  await headprobe[data.kind](document.getElementById("place"), data.shown, data.table);
  document.documentElement.dataset.ready = "true";
})();
