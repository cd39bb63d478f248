"""Dialogs over the call screen: help, details, lists and questions."""
