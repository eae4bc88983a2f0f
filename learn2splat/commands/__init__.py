"""Commands of ``l2s`` by what they deal with. No logic lives here."""
