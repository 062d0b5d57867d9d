"""Find which entries occur in a text: matcher.py, over tokens (tokenise.py), a trie (trie.py) and a loop (loop.py)."""
