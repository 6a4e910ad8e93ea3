"""Sentences that every part of an export may try a model on."""

# Different in length, script and content: a mask that leaks or a position that shifts shows in the
# short ones.
SENTENCES = (
    "Hello.",
    "The house is wonderful.",
    "A man in a blue shirt is standing on a ladder and cleaning a window.",
    "No",
    "In 1969, two people walked on the moon for 2 hours and 31 minutes.",
    "🎉 Great news!!! 🎉 We won, 3:2 after extra time 😀",
    "Ein Hund läuft über die grüne Wiese, und niemand ruft ihn zurück.",
    "Ça coûte déjà 12,50 €, n'est-ce pas?",
    "The film is slow, far too long and badly lit, yet I could not look away for a minute.",
    "今日は天気がいいですね。",
    "x = f(y) + 0.5 * [a, b]  # a line of code, with\ttabs and   spaces",
    "When the committee met again in the spring, after a winter in which nothing at all had been "
    "decided, the members who had left in anger came back, took their old seats, and voted, one "
    "after the other, for the very proposal they had fought in October, as if none of the long "
    "letters, the public speeches and the broken friendships had ever happened.",
)
