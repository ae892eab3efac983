"""A page on which the rows of a feature store are found, heard and labelled while a classifier grows."""
