"""Parts of the programs: data, models, what is measured and drawn."""
