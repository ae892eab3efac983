"""A page on which the clips of a feature store can be looked at, listened to and doubted."""
