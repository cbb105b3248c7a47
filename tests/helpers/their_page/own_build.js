// What the page's own build of d3-jetpack has, and the published one lacks.
const conventions = d3.conventions;
d3.conventions = (given) => {
  const made = conventions(given);
  made.drawAxis = (svg) => d3.drawAxis({ ...made, svg });
  return made;
};
