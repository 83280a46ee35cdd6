"""What writes data sets as ArrayRecord files, without TensorFlow: a file for each kind of set."""
