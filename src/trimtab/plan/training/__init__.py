"""Training: what a step of a layout takes in memory and time. `layouts` says what a layout is, `work` what a token costs a device,
`memory` and `time` add it up for any number of layouts at once, `rows` reads published runs."""
