"""The uses of upsampling that the study measures: for each its loss, its evaluation and its run."""
