"""Films to arrays, torch data sets, transforms, splits, phantoms."""
