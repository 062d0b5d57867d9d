// What a place of the slider says: one of the values computed beforehand, or in between, interpolated.
"use strict";

// Return the state at a place, 0 to the number of values less 1: {value, isExact, total, expected, threshold, effective}.
function stateAt(slider, place) {
  const low = Math.floor(place);
  const share = place - low;
  const high = Math.min(low + 1, slider.values.length - 1);
  const between = (values) => (share === 0 ? values[low] : values[low] + share * (values[high] - values[low]));
  const value =
    share === 0
      ? slider.values[low]
      : Math.exp((1 - share) * Math.log(slider.values[low]) + share * Math.log(slider.values[high]));
  return {
    value,
    isExact: share === 0,
    total: between(slider.total),
    expected: (language) => between(slider.expected[language]),
    threshold: (list) => (slider.thresholds[list][low] === null ? null : between(slider.thresholds[list])),
    effective: (list) => between(slider.effective[list]),
  };
}

// Write the slider's value as the recipe spells it.
function settingText(slider, state) {
  const number = slider.key === "tail_fraction" ? +state.value.toPrecision(state.isExact ? 6 : 3) : count(state.value);
  return `balance.${slider.key} = ${number}`;
}
