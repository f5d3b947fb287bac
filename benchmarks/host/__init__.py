"""Host time of a call, without a GPU: on a driver that does nothing."""
