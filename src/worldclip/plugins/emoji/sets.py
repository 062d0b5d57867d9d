"""Held-out sets of the emoji pool: the name of the dataset -> what it shows."""

HELD_OUT = {
    "emoji_tone": "Emoji with a skin tone, held out of training: their shape and their tone both occur there, never "
    "together.",
    "emoji_base": "Every emoji without a skin tone, on another background, rotated and scaled; their names occur in "
    "training.",
}
