"""What published and own measurements add to physics: residuals, intervals, errors."""
