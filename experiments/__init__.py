"""The study: what each way of upsampling does to boundaries, with evidence."""
