"""One file = one format: `read(path, ...) -> Dataset`, `write(dataset, path)`, or both."""
