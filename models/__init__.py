"""Floor 1: describes a model, as data. Importing `potluck.models.spec` never imports torch."""
