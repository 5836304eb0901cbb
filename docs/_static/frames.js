// Panels whose frames were drawn ahead (reproduce/book/frames.py): sliders choose the frame that is shown.
for (const panel of document.querySelectorAll(".frames")) {
  const data = JSON.parse(panel.querySelector("script").textContent);
  const image = panel.querySelector("img");
  const words = panel.querySelector(".words");
  const sliders = [...panel.querySelectorAll("input")];
  let pause;
  data.images[panel.dataset.first] ||= image.getAttribute("src");
  const show = () => {
    const place = sliders.reduce((sum, slider, number) => sum * data.labels[number].length + slider.valueAsNumber, 0);
    const frame = data.frames[place];
    image.src = data.images[frame];
    image.alt = data.words[frame];
    image.hidden = !data.images[frame];
    words.classList.toggle("shown", image.hidden);
    sliders.forEach((slider, number) => {
      const label = data.labels[number][slider.valueAsNumber];
      slider.setAttribute("aria-valuetext", label);
      slider.parentElement.querySelector("output").value = label;
    });
    clearTimeout(pause); // a screen reader says the words once the slider rests
    pause = setTimeout(() => { words.textContent = data.words[frame]; }, 400);
  };
  for (const slider of sliders) {
    slider.addEventListener("input", show);
    for (const button of slider.parentElement.querySelectorAll("button")) {
      button.addEventListener("click", event => {
        event.preventDefault();
        slider.valueAsNumber += Number(button.value);
        show();
      });
    }
  }
}
