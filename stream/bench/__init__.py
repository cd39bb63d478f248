"""The live link measured from outside: real calls between two processes on virtual sound cards.

What is said and heard is recorded sample by sample beside each other, so every figure comes from
sound, from the operating system or from the call's own statistics file, never from the inside of a
process under test.
"""
