// An address of MLflow's own pages names a run or an experiment behind the '#', which no server is sent.
"use strict";
(() => {
  const base = location.pathname.replace(/\/mlflow\/?$/, "");
  const run = /^#\/experiments\/[^/?]+\/runs\/([^/?]+)/.exec(location.hash);
  const experiment = /^#\/experiments\/([^/?]+)/.exec(location.hash);
  location.replace(
    run ? `${base}/runs/${run[1]}` : experiment ? `${base}/experiments/${experiment[1]}` : `${base}/jobs`,
  );
})();
