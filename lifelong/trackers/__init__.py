"""Where rows go besides the run folder: one file per tracker."""
