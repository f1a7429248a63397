"""The model itself: Phi-3-vision's tower, projection and decoder, for the flat, paged layout."""
