"""The call screen: draws snapshots of the call and passes keys on to it."""
