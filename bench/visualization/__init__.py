"""Pictures of prototypes; they need the fitted models and the images, not the stored numbers alone."""
