// Sliders of an endpoint's traffic: of two deployments one follows the other; of more their sum is told.
"use strict";
(() => {
  const form = document.getElementById("traffic");
  if (!form) return;
  const sliders = [...form.querySelectorAll("input[type=range]")];
  const button = form.querySelector("button");
  const line = document.getElementById("traffic-sum");
  const show = () => {
    let sum = 0;
    for (const slider of sliders) {
      sum += Number(slider.value);
      slider.parentElement.querySelector("output").textContent = `${slider.value} %`;
    }
    button.disabled = sum !== 0 && sum !== 100;
    line.textContent = sum === 100 ? "" : sum === 0 ? "No deployment gets any." : `They sum to ${sum}: 100, or none.`;
  };
  for (const slider of sliders) {
    slider.addEventListener("input", () => {
      if (sliders.length === 2) {
        const other = sliders.find((one) => one !== slider);
        other.value = String(100 - Number(slider.value));
      }
      show();
    });
  }
  // Copies go to one deployment: its name becomes the field's.
  form.addEventListener("formdata", (event) => {
    const to = document.getElementById("mirror-to").value;
    if (to) event.formData.set(`mirror.${to}`, document.getElementById("mirror-percent").value);
  });
  show();
})();
