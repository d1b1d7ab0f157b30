"""Run requests, recipes and cell specifications."""
