"""What a decision becomes when it leaves the house: artifacts and images, bundles, manifests, cards."""
