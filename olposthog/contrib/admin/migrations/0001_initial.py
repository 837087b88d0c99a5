"""Makes the content type and the permissions of people, and no table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Names the model, which Django manages no table of."""

    initial = True

    operations = [
        migrations.CreateModel(
            name="Person",
            fields=[("distinct_id", models.TextField(primary_key=True, serialize=False))],
            options={
                "verbose_name": "person",
                "verbose_name_plural": "people",
                "permissions": (("clear_flags", "Can clear a person's cached flags"),),
                "managed": False,
                "base_manager_name": "objects",
                "default_permissions": ("view",),
            },
        ),
    ]
