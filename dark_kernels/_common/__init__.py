"""Shared by the rooms: argument checks, what operators need, matrix products, target maps, kappas of data sets."""
